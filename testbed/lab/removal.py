"""Removal of labs in whatever state they are: what one cannot be rid of is said, and does not stop the rest."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from testbed.errors import HostError, InputError, TestbedError
from testbed.lab.lab import ElsewhereError, Lab
from testbed.lab.state import LabUnreadableError, was_docker
from testbed.runtime.docker.engine import may_answer
from testbed.runtime.docker.presence import list_containers, remove_containers
from testbed.runtime.netns import rootless
from testbed.runtime.processes.discovery import list_owned, remove
from testbed.runtime.processes.lab_lock import lab_lock


@dataclass(frozen=True)
class Removal:
    """What became of a lab that was to be removed."""

    lab: str
    done: str  # empty: nothing to tell
    left: str = ""  # what could not be removed, and why


def remove_labs(names: Sequence[str]) -> Iterator[Removal]:
    """Remove labs one by one, whatever state they are in. What one cannot be rid of does not stop the next."""
    for name in names:
        try:
            with lab_lock(name, "taking this lab down") as lock:
                removal = remove_lab(name, lock)
        except (TestbedError, OSError) as error:
            removal = Removal(name, "", str(error))
        yield removal


def remove_lab(name: str, lock: int | None = None) -> Removal:
    """Remove what this system has of a lab whose lock the caller holds."""
    trouble: list[str] = []

    def attempt(step: Callable[[], object]) -> bool:
        try:
            step()
        except (TestbedError, OSError) as error:
            trouble.append(str(error))
            return False
        return True

    lab: Lab | None = None
    in_docker, there = was_docker(name), _has_pieces(name)
    try:
        lab = Lab.find(name)
    except ElsewhereError as elsewhere:
        down = (sys.executable, "-P", "-m", "testbed", "down", name)  # tells what it does
        told = False
        with contextlib.suppress(TestbedError):  # what it cannot do, the end of its holder does
            told = rootless.run_in_lab(elsewhere.holder, down, lock) == 0
        attempt(lambda: rootless.remove(name))
        attempt(lambda: _require_gone(name))
        return Removal(name, "" if told else "its pieces were removed", "; ".join(trouble))
    except HostError as error:
        trouble.append(f"containers that it may have: {error}")
        lab = Lab.find_on_host(name)
    except (InputError, LabUnreadableError):
        pass
    if lab is not None:
        before = len(trouble)
        if not attempt(lab.remove) and attempt(lambda: remove(name)):
            del trouble[before:]
    else:
        attempt(lambda: remove(name))
    attempt(lambda: remove_containers(name))  # Grafana's too, of a netns lab whose creator was killed
    if in_docker and not trouble and not may_answer():
        trouble.append("containers that it may have: no Docker Engine answers")
    attempt(lambda: _require_gone(name))
    if lab is not None:
        done = f"removed; its records are in {lab.state.run_directory}"
    else:
        done = "its pieces were removed" if there else "there is no such lab; nothing was removed"
    return Removal(name, done, "; ".join(dict.fromkeys(trouble)))


def _has_pieces(name: str) -> bool:
    if list_owned(name):
        return True
    with contextlib.suppress(TestbedError):  # an engine that does not answer tells nothing: removal says so
        return bool(list_containers(name))
    return False


def _require_gone(name: str) -> None:
    left = [f"{owned.kind} {owned.name}" for owned in (*list_owned(name), *list_containers(name))]
    if left:
        raise TestbedError(f"still there: {', '.join(left)}")
