"""What is checked about a lab beyond its own file: models that exist, a host that can carry it."""

from __future__ import annotations

import math
import os
from pathlib import Path

from testbed.errors import InputError
from testbed.topology import HOST_LOAD_LIMIT, Topology, host_load


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

            check_model(ue.model, folder)


def host_cores() -> float:
    """Cores that this process may use."""
    return float(len(os.sched_getaffinity(0)))


def warnings(topology: Topology) -> list[str]:
    """What will probably make a run invalid on this host, or an energy budget pointless."""
    found: list[str] = []
    load = host_load(topology, host_cores())
    if load > HOST_LOAD_LIMIT:
        found.append(
            f"edge cpus plus the UEs' speeds ask for {load:.0%} of what this host's {host_cores():g} cores make in "
            f"reference cores; above {HOST_LOAD_LIMIT:.0%} stages overrun and runs become invalid. "
            f"Lower 'edge.cpus', 'speed' or 'count', or take a larger host."
        )
    if topology.edge.cpus > HOST_LOAD_LIMIT and host_cores() < 2:
        found.append("the edge alone asks for more than this host's core can give")
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
