"""What may happen to a lab. Each event does one thing and says what; in ``scene.undo`` is what must not stay.

An event that finds nothing to happen to returns an empty text.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.host import containers
from benchmarks.chaos.relay import Relay
from benchmarks.chaos.scene import Scene

#: Of a run directory that gets full. A run of ten seconds needs a quarter of it.
DISK_BYTES = 8 << 20
#: Helpers - launchers, the zygote, the watch of the CPUs - are as many as programs, and cost a run nothing.
NODES_RATIO = 0.8
CLOCK = Path(__file__).with_name("clock.c")
SHIFTS_SECONDS = (3600, -3600, 86400, -31_536_000, 2)
Act = Callable[[Scene], str]


@dataclass(frozen=True)
class Event:
    """``prepare`` is done before the lab is started."""

    act: Act
    runtimes: tuple[str, ...] = ("netns", "docker")
    prepare: Callable[[Scene], None] | None = None
    harmless: bool = False  # must cost the run nothing
    on_command: bool = False  # hits the command line itself
    lethal: bool = False  # what it hits never works again
    may_leave: bool = False  # the run cannot take everything down, says so, and ends with 1
    codes: tuple[int, ...] = (0, 1, 4)  # with which the run may end
    possible: Callable[[], bool] = lambda: True


# ------------------------------------------------------------------------------------------------------------ programs


def _hit(scene: Scene, number: signal.Signals) -> str:
    """A signal to one process of the lab: mostly to a program of a node, at times to a helper of one."""
    found = scene.processes()
    while found:
        nodes = [name for name in found if "(" not in name]
        name = scene.random.choice(sorted(nodes if nodes and scene.random.random() < NODES_RATIO else found))
        with suppress(ProcessLookupError):
            os.kill(found[name], number)
            scene.victims.add(name)
            return name
        del found[name]
    return ""


def kill(scene: Scene) -> str:
    return _hit(scene, signal.SIGKILL)


def terminate(scene: Scene) -> str:
    return _hit(scene, signal.SIGTERM)


def freeze(scene: Scene) -> str:
    """It is never woken: whoever ends the lab has to end it, too."""
    return _hit(scene, signal.SIGSTOP)


def pause(scene: Scene) -> str:
    """Stopped for some seconds."""
    seconds = scene.random.uniform(0.2, 5.0)
    name = _hit(scene, signal.SIGSTOP)
    if not name:
        return ""
    pid = scene.processes().get(name)
    time.sleep(seconds)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return f"{name} for {seconds:.1f} s"


def kill_two(scene: Scene) -> str:
    return " and ".join(filter(None, (kill(scene), kill(scene))))


# ------------------------------------------------------------------------------------------------------------- command


def _command(scene: Scene, number: signal.Signals) -> str:
    if scene.command is None or not scene.at_work():
        return ""
    scene.command.send_signal(number)
    return signal.Signals(number).name


def kill_command(scene: Scene) -> str:
    return _command(scene, signal.SIGKILL)


def end_command(scene: Scene) -> str:
    return _command(scene, scene.random.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)))


def pause_command(scene: Scene) -> str:
    """Shortly: it may hold a lock that other labs of this host wait for."""
    said = _command(scene, signal.SIGSTOP)
    if said:
        time.sleep(scene.random.uniform(0.1, 0.8))
        _command(scene, signal.SIGCONT)
    return said


def second_up(scene: Scene) -> str:
    scene.said.append(scene.say("up", *scene.options()))
    return "up"


def second_run(scene: Scene) -> str:
    elsewhere = scene.folder / "second"
    scene.said.append(scene.say("run", *scene.options(), "--duration", "1 s", "--out", str(elsewhere)))
    return "run"


def down(scene: Scene) -> str:
    scene.said.append(scene.say("down", scene.name))
    return "down"


# --------------------------------------------------------------------------------------------------------------- files


def small_disk(scene: Scene) -> None:
    folder = scene.folder / "out"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "chaos", str(folder)], check=True)


def _fill(scene: Scene) -> Path:
    filler = scene.folder / "out" / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return filler


def full_disk(scene: Scene) -> str:
    """Full until somebody frees some space, after the run."""
    filler = _fill(scene)
    scene.undo.append(lambda: filler.unlink(missing_ok=True))
    return "full"


def full_for_a_moment(scene: Scene) -> str:
    seconds = scene.random.uniform(0.3, 4.0)
    filler = _fill(scene)
    time.sleep(seconds)
    filler.unlink()
    return f"full for {seconds:.1f} s"


def torn_file(scene: Scene) -> str:
    """One file of the lab's state, cut short, emptied, or with half a line more."""
    folder = scene.state_directory()
    try:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")
    except OSError:
        return ""
    if not files:
        return ""
    path = scene.random.choice(files)
    name = str(path.relative_to(folder))
    with suppress(FileNotFoundError):
        how = scene.random.choice(("cut", "emptied", "half a line more"))
        if how == "half a line more":
            with path.open("ab") as file:
                file.write(b'{"kind": "sta')
        else:
            os.truncate(path, 0 if how == "emptied" else scene.random.randrange(path.stat().st_size + 1))
        scene.victims.add(name)
        return f"{name} {how}"
    return ""


def lost_wire(scene: Scene) -> str:
    """An interface that somebody deletes."""
    radio = f"tb.{scene.name}.radio"
    done = subprocess.run(["ip", "-n", radio, "link", "del", "u0"], capture_output=True, check=False)
    return "u0" if done.returncode == 0 else ""


# --------------------------------------------------------------------------------------------------------------- clock


def own_clock(scene: Scene) -> None:
    """Programs of this lab - of its host's side - see a wall clock of their own; the monotonic one is the host's."""
    library = scene.folder / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(CLOCK), "-ldl"], check=True)
    (scene.folder / "clock").write_bytes(struct.pack("q", 0))
    scene.variables.update(LD_PRELOAD=str(library), TESTBED_CLOCK=str(scene.folder / "clock"))


def shift_clock(scene: Scene) -> str:
    seconds = scene.random.choice(SHIFTS_SECONDS)
    with (scene.folder / "clock").open("r+b", buffering=0) as clock:
        clock.write(struct.pack("q", seconds))
    return f"{seconds:+d} s"


# ---------------------------------------------------------------------------------------------------------- containers


def _container(scene: Scene, *action: str) -> str:
    found = containers(scene.name)
    if not found:
        return ""
    name = scene.random.choice(sorted(found))
    done = subprocess.run(["docker", *action, name], capture_output=True, check=False)
    scene.victims.add(name.rpartition(".")[2])
    return f"{' '.join(action)} {name.rpartition('.')[2]}" if done.returncode == 0 else ""


def kill_container(scene: Scene) -> str:
    return _container(scene, "kill")


def remove_container(scene: Scene) -> str:
    return _container(scene, "rm", "-f")


def restart_container(scene: Scene) -> str:
    return _container(scene, "restart", "-t", "1")


def pause_container(scene: Scene) -> str:
    """Whoever takes the lab down has to do it to a container that is paused."""
    said = _container(scene, "pause")
    if said and scene.random.random() < 0.5:
        time.sleep(scene.random.uniform(0.3, 4.0))
        subprocess.run(["docker", "unpause", *containers(scene.name)], capture_output=True, check=False)
        said = f"{said}, and unpause"
    return said


def between(scene: Scene) -> None:
    """A socket of this scene's own before the engine."""
    relay = Relay(scene.folder / "engine.sock")
    scene.variables["DOCKER_HOST"] = relay.address
    scene.relay = relay
    scene.undo.append(relay.mend)


def engine_gone(scene: Scene) -> str:
    """It does not answer any more; containers live on (``live-restore``)."""
    assert scene.relay is not None
    scene.relay.cut()
    if scene.random.random() < 0.5:
        time.sleep(scene.random.uniform(0.5, 8.0))
        scene.relay.mend()
        return "gone for a while"
    return "gone"


def engine_stopped(scene: Scene) -> str:
    """As ``systemctl stop docker``: the containers end in good order, or are killed, and nothing answers."""
    assert scene.relay is not None
    found = containers(scene.name)
    scene.relay.cut()
    if found:
        how = scene.random.choice((("stop", "-t", "1"), ("kill",)))
        subprocess.run(["docker", *how, *found], capture_output=True, check=False)
        scene.victims.update(name.rpartition(".")[2] for name in found)
    if scene.random.random() < 0.5:
        scene.relay.mend()
        return "stopped and started"
    return "stopped"


DOCKER = ("docker",)
EVENTS: dict[str, Event] = {
    "kill -9 of a program": Event(kill, lethal=True),
    "kill -9 of two programs": Event(kill_two, lethal=True),
    "SIGTERM to a program": Event(terminate, lethal=True),
    "SIGSTOP of a program, for good": Event(freeze, lethal=True),
    "SIGSTOP of a program, for a while": Event(pause),
    "kill -9 of the command": Event(kill_command, on_command=True, codes=(-9,)),
    "a signal to the command": Event(end_command, on_command=True, codes=(129, 130, 143)),
    "SIGSTOP of the command, for a while": Event(pause_command),
    "a second up": Event(second_up, harmless=True, codes=(0, 1, 2, 4)),
    "a second run": Event(second_run, harmless=True, codes=(0, 1, 2, 4)),
    "down": Event(down, harmless=True),
    "a full disk": Event(full_disk, prepare=small_disk),
    "a disk full for a moment": Event(full_for_a_moment, prepare=small_disk),
    "a torn state file": Event(torn_file, codes=(0, 1, 2, 4)),
    "a wire deleted": Event(lost_wire),
    "the wall clock shifted": Event(
        shift_clock, prepare=own_clock, harmless=True, possible=lambda: shutil.which("cc") is not None
    ),
    "a container killed": Event(kill_container, DOCKER, lethal=True),
    "a container removed": Event(remove_container, DOCKER, lethal=True),
    "a container restarted": Event(restart_container, DOCKER),
    "a container paused": Event(pause_container, DOCKER),
    "the engine silent": Event(engine_gone, DOCKER, prepare=between, may_leave=True),
    "the engine stopped": Event(engine_stopped, DOCKER, prepare=between, may_leave=True),
}
