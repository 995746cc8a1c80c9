"""What is checked about a lab beyond its own file: models that exist, a host that can carry it."""

from __future__ import annotations

import math
from pathlib import Path

from testbed.errors import InputError
from testbed.runtime.host import facts
from testbed.topology import Topology

#: Above this part of what the host makes, stages overrun.
HOST_LOAD_LIMIT = 0.9


def check_models(topology: Topology, where: str, folder: Path) -> None:
    """Every model can be made. Raises InputError. Imports torch unless a profile vouches for the model."""
    for ue in topology.expand():
        kind, colon, name = ue.model.partition(":")
        if not colon or not name or not kind:
            raise InputError(
                f"the model of {ue.name!r} is not understood",
                where=f"{where}: model",
                value=ue.model,
                allowed="'torchvision:NAME' or 'package.module:factory'",
            )
        if ue.profile is None:
            from testbed.inference.models import check_model

            try:
                check_model(ue.model, folder)
            except InputError as error:
                raise InputError(
                    error.what, where=f"{where}: model", value=error.value, allowed=error.allowed, fix=error.fix
                ) from None


def host_load(topology: Topology) -> float:
    """Reference cores asked for (the edge's and the UEs' speeds), as a part of what this host's cores make."""
    asked = topology.edge.cpus + math.fsum(ue.spec.speed for ue in topology.expand())
    return asked / facts().reference_cores


def warnings(topology: Topology) -> list[str]:
    """What will probably make a run invalid on this host, or an energy budget pointless."""
    found: list[str] = []
    load = host_load(topology)
    if load > HOST_LOAD_LIMIT:
        found.append(
            f"edge cpus plus the UEs' speeds ask for {load:.0%} of what this host's {facts().cores} cores make in "
            f"reference cores; above {HOST_LOAD_LIMIT:.0%} stages overrun and runs become invalid. "
            f"Lower 'edge.cpus', 'speed' or 'count', or take a larger host."
        )
    for ue in topology.ues:
        mean_rate = _mean_rate(ue.arrivals.rate, ue.arrivals.rates)
        if mean_rate is not None and mean_rate * topology.slot < 1:
            found.append(
                f"UE {ue.name!r} has {mean_rate * topology.slot:.2g} arrivals per slot; a policy that plans by slot "
                f"steady state (LyMDO) wants several"
            )
    return found


def _mean_rate(rate: float | None, rates: tuple[float, float] | None) -> float | None:
    if rates is not None:
        return math.fsum(rates) / len(rates)
    return rate
