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

*Variability.* All of this is for Poisson arrivals. For others W is multiplied by ``q = c_a^2 + c_s^2``, the squared
coefficients of variation of the gaps between arrivals and of the service times (Kingman 1961, "The single server queue
in heavy traffic", Proc. Camb. Phil. Soc. 57(4):902; exact at q = 1, M/D/1). A *periodic* stream, period T, has c_a = 0
and with constant services its gaps leave every stage as they came: nobody waits anywhere below a load of 1. The waits
there are come from slots that change what a stage takes: when the head gets shorter by d, one gap before the next
stage, of service s and load u, is T - d; that task waits b = max(0, s + d - T) and those behind it less and less, in
the mean over a slot of length tau ``b^2 / (2 tau (1 - u))`` per task. That needs two stages that take more than a
period together, at the moment of a change; in the simulator it is under 0.2 % of the delay, also where the channel
fades within the slot. For q we take :data:`PERIODIC_VARIABILITY`, a jitter of a tenth of the period: a margin that
keeps loads away from 1.

These are steady-state means: a slot must hold several tasks, or backlog must be carried (the simulator's event mode).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.contract import Arrivals

DelayModel = Literal["exact", "indep", "none"]

PERIODIC_VARIABILITY = 0.01


def variability(arrivals: Arrivals) -> float:
    """q of a UE's queues: 1 for Poisson arrivals (also those that switch, within a slot) and for given times, of which
    nothing is known; next to nothing for periodic ones."""
    return PERIODIC_VARIABILITY if arrivals.process == "periodic" else 1.0


def waiting_seconds(
    arrival_rate_per_second: ArrayLike, service_seconds: ArrayLike, variability: ArrayLike = 1.0
) -> NDArray[np.float64]:
    """Mean wait in a queue, broadcast; ``inf`` at a load of 1 or more. Pollaczek-Khinchine at a variability of 1."""
    rate, service, ratio = np.broadcast_arrays(
        *(np.asarray(x, dtype=np.float64) for x in (arrival_rate_per_second, service_seconds, variability))
    )
    load = rate * service
    stable = load < 1.0
    spare = np.where(stable, 1.0 - load, 1.0)
    return np.where(stable, ratio * load * service / (2.0 * spare), np.inf)


def stage_waits_seconds(
    arrival_rate_per_second: ArrayLike,
    service_seconds: ArrayLike,
    model: DelayModel = "exact",
    variability: ArrayLike = 1.0,
) -> NDArray[np.float64]:
    """Mean wait before each stage. ``service_seconds`` is (..., stages), the rest (...); returns (..., stages).

    A stage of zero service is skipped and makes nobody wait.
    """
    service = np.asarray(service_seconds, dtype=np.float64)
    rate = np.asarray(arrival_rate_per_second, dtype=np.float64)[..., np.newaxis]
    ratio = np.asarray(variability, dtype=np.float64)[..., np.newaxis]
    if model == "none":
        return np.zeros(np.broadcast_shapes(service.shape, rate.shape))
    if model == "indep":
        return waiting_seconds(rate, service, ratio)
    slowest_so_far = np.maximum.accumulate(service, axis=-1)
    wait = waiting_seconds(rate, slowest_so_far, ratio)
    before = np.concatenate([np.zeros_like(wait[..., :1]), wait[..., :-1]], axis=-1)
    # once a stage is unstable its wait is infinite; behind it nobody waits longer
    return np.where(np.isinf(before), 0.0, wait - np.where(np.isinf(before), 0.0, before))


def tandem_delay_seconds(
    arrival_rate_per_second: ArrayLike,
    service_seconds: ArrayLike,
    model: DelayModel = "exact",
    variability: ArrayLike = 1.0,
) -> NDArray[np.float64]:
    """Mean end-to-end delay. ``service_seconds`` is (..., stages), the rest (...); returns (...); inf if unstable."""
    service = np.asarray(service_seconds, dtype=np.float64)
    waits = stage_waits_seconds(arrival_rate_per_second, service, model, variability)
    return np.asarray(np.sum(service + waits, axis=-1))
