"""``with testbed.up(...) as lab``: a lab that stays up, and what can be done to it meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from testbed.errors import TestbedError
from testbed.front.commands import Bar, command
from testbed.front.results import Run, open_run
from testbed.front.verbs import PolicyChoice, arguments_of, choice_of, policy_name, seconds_of, yaml_text


class Link:
    """The link of one UE in a lab that is up."""

    def __init__(self, lab: str, ue: str) -> None:
        self._lab, self.ue = lab, ue

    def set(
        self,
        *,
        rate: str | None = None,
        up: str | None = None,
        down: str | None = None,
        delay: str | None = None,
        jitter: str | None = None,
        loss: str | None = None,
    ) -> None:
        """Fix parts of the link, values with their units; what is not named stays. Raises InputError, TestbedError."""
        given = {"rate": rate, "up": up, "down": down, "delay": delay, "jitter": jitter, "loss": loss}
        options = [text for key, value in given.items() if value is not None for text in (f"--{key}", value)]
        command(["link", "set", "--lab", self._lab, self.ue, *options], _ignore)

    def reset(self) -> None:
        """Return the link to the lab's values."""
        command(["link", "reset", "--lab", self._lab, self.ue], _ignore)

    def show(self) -> list[dict[str, Any]]:
        """Rates in bit/s, queues and drops of both directions, read from the kernel."""
        states: list[dict[str, Any]] = json.loads(command(["link", "show", "--lab", self._lab, "--json"], _ignore))
        return [state for state in states if state["ue"] == self.ue]


class Session(AbstractContextManager["Session"]):
    """A lab that is up. It goes down at the end of the ``with``, whatever happens in it."""

    def __init__(self, name: str, directory: Path, urls: Mapping[str, str]) -> None:
        self.name = name
        self.directory = directory
        self.urls = dict(urls)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def link(self, ue: str) -> Link:
        """The link of a UE."""
        return Link(self.name, ue)

    def policy(self, policy: PolicyChoice, **options: Any) -> None:
        """Let another policy decide from the next slot on. Raises InputError or TestbedError."""
        values = [f"{key}={yaml_text(value)}" for key, value in options.items()]
        command(["policy", "set", policy_name(policy), *values, "--lab", self.name], _ignore)

    def wait(self, duration: str | float) -> None:
        """Let the lab go on for a while. Raises TestbedError when it is gone afterwards."""
        time.sleep(seconds_of(duration))
        if self.name not in {lab["lab"] for lab in self.labs()}:
            raise TestbedError(f"lab {self.name!r} is no longer up; what was recorded is in {self.directory}")

    def labs(self) -> list[dict[str, Any]]:
        """The labs that are up, as ``testbed ps`` tells them."""
        found: list[dict[str, Any]] = json.loads(command(["ps", "--json"], _ignore))
        return found

    def down(self) -> Run:
        """Take the lab down; what it recorded, as a run. Raises TestbedError for what could not be removed."""
        command(["down", self.name], _ignore)
        return open_run(self.directory)


def up(
    lab: Path | str,
    *,
    policy: PolicyChoice | None = None,
    seed: int | None = None,
    name: str | None = None,
    runtime: str = "auto",
    set: Mapping[str, Any] | None = None,
    directory: Path | str | None = None,
    progress: bool | None = None,
) -> Session:
    """Bring a lab up and leave it so: ``testbed up`` as a function; the arguments are those of ``testbed.run``.

    Raises InputError, HostError or TestbedError.
    """
    choice = choice_of(lab, policy, seed, name, set)
    options = [*arguments_of(choice), "--runtime", runtime]
    if directory is not None:
        options += ["--out", str(directory)]
    with Bar(f"up {choice.file.stem}", None, shown=progress) as bar:
        told = json.loads(command(["up", *options, "--json"], bar))
    return Session(told["lab"], Path(told["run_dir"]), told["urls"])


def _ignore(_text: str) -> None:
    """Progress of a moment."""
