"""``testbed.run`` and ``testbed.simulate``: a lab file in, a :class:`Run` out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controller.contract import Policy
from controller.simulator.result import Mode
from testbed.errors import InputError
from testbed.front.commands import Bar, command
from testbed.front.results import Run
from testbed.lab.choice import LabChoice
from testbed.lab.simulate import SimulationOrder, simulate_lab
from testbed.labfile.schema import PolicySpec
from testbed.units import DURATION

#: What names a policy: its name, MODULE:CLASS, a class that a module holds, or, in the simulator, any object.
PolicyChoice = str | type[Policy] | Policy


def run(
    lab: Path | str,
    *,
    policy: PolicyChoice | None = None,
    duration: str | float = "60 s",
    seed: int | None = None,
    name: str | None = None,
    runtime: str = "auto",
    set: Mapping[str, Any] | None = None,
    directory: Path | str | None = None,
    progress: bool | None = None,
) -> Run:
    """Bring a lab up, measure, report, take it down: ``testbed run`` as a function.

    ``duration``: how long tasks arrive, with its unit, or in seconds. ``set``: overrides of the lab file, as ``--set``.
    ``directory``: of the run; runs/RUN_ID in the present directory if not given. ``progress``: a bar; where somebody
    looks, if not given. An invalid run is returned, too: look at ``valid``.

    Raises InputError, HostError or TestbedError.
    """
    seconds = seconds_of(duration)
    choice = choice_of(lab, policy, seed, name, set)
    options = [*arguments_of(choice), "--runtime", runtime, "--duration", f"{seconds} s"]
    if directory is not None:
        options += ["--out", str(directory)]
    with Bar(f"run {Path(lab).stem}", seconds, shown=progress) as bar:
        told = json.loads(command(["run", *options, "--json"], bar))
    return Run(told["run_dir"])


def simulate(
    lab: Path | str,
    *,
    policy: PolicyChoice | None = None,
    slots: int = 500,
    mode: Mode = "event",
    seed: int | None = None,
    name: str | None = None,
    set: Mapping[str, Any] | None = None,
    directory: Path | str | None = None,
    progress: bool | None = None,
) -> Run:
    """Run a lab in the simulator: the same tasks, channels and decisions as :func:`run`, in seconds.

    ``policy`` may be any object with the methods of a policy. The other arguments are those of :func:`run`.

    Raises InputError or TestbedError.
    """
    is_object = policy is not None and not isinstance(policy, str | type)
    choice = choice_of(lab, None if is_object else policy, seed, name, set)
    topology = choice.read()
    decider: Policy | None = None
    if is_object:
        assert isinstance(policy, Policy)
        decider = policy
        spec = PolicySpec(name=f"{type(policy).__module__}:{type(policy).__qualname__}")
        topology = topology.model_copy(update={"policy": spec})
    target = None if directory is None else Path(directory)
    order = SimulationOrder(topology, str(choice.file), choice.folder, target, slots, mode, decider)
    with Bar(f"simulate {choice.file.stem}", None, shown=progress) as bar:
        summary = simulate_lab(order, bar)
    return Run(summary.run_dir)


def arguments_of(choice: LabChoice) -> list[str]:
    """The choice as arguments of a command."""
    named = (("--policy", choice.policy), ("--seed", choice.seed), ("--name", choice.name))
    options = [text for option, value in named if value is not None for text in (option, str(value))]
    return [str(choice.file), *options, *(text for override in choice.overrides for text in ("--set", override))]


def choice_of(
    lab: Path | str,
    policy: PolicyChoice | None,
    seed: int | None,
    name: str | None,
    overrides: Mapping[str, Any] | None,
) -> LabChoice:
    """The lab that is meant. Raises InputError."""
    texts = tuple(f"{key}={yaml_text(value)}" for key, value in (overrides or {}).items())
    return LabChoice(Path(lab), texts, None if policy is None else policy_name(policy), seed, name)


def policy_name(policy: PolicyChoice) -> str:
    """What a lab calls a policy. Raises InputError for one that no other process could find."""
    if isinstance(policy, str):
        return policy
    factory = policy if isinstance(policy, type) else type(policy)
    if not isinstance(policy, type) or factory.__module__ == "__main__" or "<locals>" in factory.__qualname__:
        raise InputError(
            "a lab makes its policy in a process of its own, which cannot have this object",
            where="policy",
            value=f"{factory.__module__}:{factory.__qualname__}",
            allowed="a name of `testbed policy list`, 'MODULE:CLASS' of a file beside the lab file, such a class",
            fix="Write the class into a file beside the lab file; its options go into set={'policy.OPTION': value}. "
            "The simulator takes any object.",
        )
    return f"{factory.__module__}:{factory.__qualname__}"


def yaml_text(value: Any) -> str:
    """A value as ``--set`` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def seconds_of(duration: str | float) -> float:
    """A duration in seconds. Raises InputError."""
    try:
        seconds = DURATION.parse(duration) if isinstance(duration, str) else float(duration)
    except ValueError as error:
        raise InputError(str(error), where="duration") from None
    if not seconds > 0:
        raise InputError("a run lasts longer than that", where="duration", value=duration, allowed="above 0 s")
    return seconds
