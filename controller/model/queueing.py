"""Mean delay of a task through UE, uplink and edge: a serial queue with constant service times.

A UE's tasks arrive as a Poisson stream and pass three first-come-first-served stages - head on the UE, transfer on its
slice of the uplink, tail on its share of the edge - whose service times are constant within a slot. Each UE has its
own slices, so its stages form a private tandem line.

``exact``: with constant service times a customer's time in a tandem line does not depend on the order of the stages
(Friedman 1965, "Reduction Methods for Tandem Queuing Systems", Oper. Res. 13(1):121), and departures of the slowest
stage are never closer than its service time, so that no faster stage behind it makes anyone wait. Put the slowest
stage first: it is an M/D/1 queue and everything behind it is pure delay, hence

    D = s_u + s_t + s_e + W(max(s_u, s_t, s_e)),    W(s) = lambda s^2 / (2 (1 - lambda s))   (Pollaczek-Khinchine).

By the same reduction of the first i stages the wait that stage i adds is ``W(max_{j<=i} s_j) - W(max_{j<i} s_j)``.

``indep``: every stage as its own M/D/1 queue fed by Poisson(lambda): ``D = sum_i s_i + W(s_i)``. Over-estimates, but
separates the resources.

``none``: service times only.

These are steady-state means: a slot must hold several tasks, or backlog must be carried (the simulator's event mode).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

DelayModel = Literal["exact", "indep", "none"]


def waiting_seconds(arrival_rate_per_second: ArrayLike, service_seconds: ArrayLike) -> NDArray[np.float64]:
    """Mean wait in an M/D/1 queue, broadcast; ``inf`` at a load of 1 or more. Pollaczek-Khinchine."""
    rate, service = np.broadcast_arrays(
        np.asarray(arrival_rate_per_second, dtype=np.float64), np.asarray(service_seconds, dtype=np.float64)
    )
    load = rate * service
    stable = load < 1.0
    spare = np.where(stable, 1.0 - load, 1.0)
    return np.where(stable, load * service / (2.0 * spare), np.inf)


def stage_waits_seconds(
    arrival_rate_per_second: ArrayLike, service_seconds: ArrayLike, model: DelayModel = "exact"
) -> NDArray[np.float64]:
    """Mean wait before each stage. ``service_seconds`` is (..., stages), the rate (...); returns (..., stages).

    A stage of zero service is skipped and makes nobody wait.
    """
    service = np.asarray(service_seconds, dtype=np.float64)
    rate = np.asarray(arrival_rate_per_second, dtype=np.float64)[..., np.newaxis]
    if model == "none":
        return np.zeros(np.broadcast_shapes(service.shape, rate.shape))
    if model == "indep":
        return waiting_seconds(rate, service)
    slowest_so_far = np.maximum.accumulate(service, axis=-1)
    wait = waiting_seconds(rate, slowest_so_far)
    before = np.concatenate([np.zeros_like(wait[..., :1]), wait[..., :-1]], axis=-1)
    # once a stage is unstable its wait is infinite; behind it nobody waits longer
    return np.where(np.isinf(before), 0.0, wait - np.where(np.isinf(before), 0.0, before))


def tandem_delay_seconds(
    arrival_rate_per_second: ArrayLike, service_seconds: ArrayLike, model: DelayModel = "exact"
) -> NDArray[np.float64]:
    """Mean end-to-end delay. ``service_seconds`` is (..., stages), the rate (...); returns (...); inf if unstable."""
    service = np.asarray(service_seconds, dtype=np.float64)
    waits = stage_waits_seconds(arrival_rate_per_second, service, model)
    return np.asarray(np.sum(service + waits, axis=-1))
