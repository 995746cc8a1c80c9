"""Primal Newton for one shared resource, and the root for the UE's speed: compiled, no allocation, one slot at a time.

Both shared resources are ``min sum_n g_n(x_n)  s.t.  sum_n x_n = X`` with convex g_n that go to infinity at the
smallest stable x_n, so a feasible start plus a damped Newton step with a diagonal Hessian is all that is needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.compiled import compiled
from controller.solvers.allocation.problem import MAXIMUM_LOAD

FloatArray = NDArray[np.float64]

LN2 = np.log(2.0)
#: Newton's decrement (squared, halved) relative to the cost at which the solution is exact to rounding.
RELATIVE_DECREMENT = 1e-15
MAXIMUM_STEPS = 100

SPECTRUM = 0
EDGE = 1


@compiled
def rate_derivatives(spectrum: float, quality: float, linear: bool) -> tuple[float, float, float]:
    """R(b) in bit/s with its first and second derivative. 0 < b."""
    if linear:
        return spectrum * quality, quality, 0.0
    x = quality / spectrum
    log_term = np.log1p(x)
    fraction = x / (1.0 + x)
    return (
        spectrum * log_term / LN2,
        (log_term - fraction) / LN2,
        -fraction * fraction / (spectrum * LN2),
    )


@compiled
def smallest_spectrum(needed: float, quality: float, linear: bool, limit: float) -> float:
    """The least b with ``R(b) >= needed`` bit/s, ``inf`` if it is not under ``limit``. Newton from the left."""
    if needed <= 0.0:
        return 0.0
    if quality <= 0.0:
        return np.inf
    if linear:
        least = needed / quality
        return least if least < limit else np.inf
    if rate_derivatives(limit, quality, False)[0] <= needed:
        return np.inf
    # R is concave and increasing: Newton's steps from the left never pass the root
    b = needed / np.log2(1.0 + quality * 64.0 / needed) if quality > needed else needed * 1e-3
    while rate_derivatives(b, quality, False)[0] > needed:
        b *= 0.25
    for _ in range(60):
        rate, slope, _ = rate_derivatives(b, quality, False)
        step = (needed - rate) / slope
        b += step
        if step <= 1e-14 * b:
            break
    return b


@compiled
def device_speed(
    arrival_rate: float, head: float, max_speed: float, kappa: float, slot: float, queue: float, price: float,
    variability: float,
) -> float:  # fmt: skip
    """The speed that minimises ``price (s + W(s)) + Q lambda tau kappa f^2 c`` with s = c/f, load under 1, f <= s_max.

    ``price`` is V w. With u = lambda s and variability q the stationary point solves
    ``u^3 (1 + q ((1-u)^-2 - 1) / 2) = 2 Q kappa tau lambda^4 c^3 / price``; the left side increases from 0 to infinity.
    """
    if head <= 0.0 or queue <= 0.0 or arrival_rate <= 0.0:
        return max_speed
    least = arrival_rate * head / max_speed
    target = 2.0 * queue * kappa * slot * arrival_rate**4 * head**3 / price
    if least >= 1.0 or least**3 * (1.0 + 0.5 * variability * ((1.0 - least) ** -2 - 1.0)) >= target:
        return max_speed
    low, high = least, 1.0
    u = min(target ** (1.0 / 3.0), 1.0 - 1.0 / np.sqrt(2.0 * target / variability + 4.0))
    log_target = np.log(target)
    for _ in range(60):
        if not low < u < high:
            u = 0.5 * (low + high)
        spare = max(1.0 - u, 1e-12)  # a queue without end draws u to 1
        slope = 1.0 + 0.5 * variability * (spare**-2 - 1.0)
        value = np.log(u**3 * slope) - log_target
        if value > 0.0:
            high = u
        else:
            low = u
        step = value / (3.0 / u + variability * spare**-3 / slope)
        u -= step
        if abs(step) <= 1e-15 * u:
            break
    speed: float = arrival_rate * head / min(u, high)  # the last step may have left the bracket
    return speed


@compiled
def service_derivatives(
    kind: int, share: float, work: float, quality: float, linear: bool
) -> tuple[float, float, float]:
    """Service time of a stage and its derivatives with respect to the resource. ``work`` is bits or seconds."""
    if kind == EDGE:
        service = work / share
        return service, -service / share, 2.0 * service / (share * share)
    rate, slope, curvature = rate_derivatives(share, quality, linear)
    service = work / rate
    ratio = slope / rate
    return service, -service * ratio, service * (2.0 * ratio * ratio - curvature / rate)


@compiled
def _cost_at(kind, share, n, work, quality, linear, arrival_rate, price, variability, energy_price, square_price, active, gradient, inverse):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """The cost of shares, with its gradient and inverse curvature filled in; inf, and those of no use, if unstable."""
    total = 0.0
    for i in range(n):
        if active[i]:
            if share[i] <= 0.0:
                return np.inf
            s, s1, s2 = service_derivatives(kind, share[i], work[i], quality[i], linear[i])
            load = arrival_rate[i] * s
            if load >= 1.0:
                return np.inf
            spare = 1.0 / (1.0 - load)
            slope = price[i] * (1.0 + 0.5 * variability[i] * (spare * spare - 1.0)) + energy_price[i]
            total += price[i] * s * (1.0 + 0.5 * variability[i] * load * spare) + energy_price[i] * s
            total += square_price[i] * share[i] * share[i]
            gradient[i] = slope * s1 + 2.0 * square_price[i] * share[i]
            curvature = price[i] * variability[i] * arrival_rate[i] * spare * spare * spare * s1 * s1 + slope * s2
            inverse[i] = 1.0 / (curvature + 2.0 * square_price[i])
    return total


@compiled
def begin_shares(kind, total, n, work, quality, linear, arrival_rate, price, energy_price, least, share, weight):  # type: ignore[no-untyped-def]  # fmt: skip
    """Fill ``share`` (ues,) with shares of ``total`` that keep every load under MAXIMUM_LOAD; whether there are any.

    Without waits and with R linear in b the optimum is proportional to sqrt(price x work). Only where that is not
    stable ``least`` is filled, with the smallest stable shares (inf for one that cannot be had), and what they leave is
    divided in that proportion. ``weight`` is scratch.
    """
    scale = 0.0
    for i in range(n):
        share[i] = 0.0
        if work[i] > 0.0:
            weight[i] = np.sqrt((price[i] + energy_price[i]) * service_derivatives(kind, total, work[i], quality[i], linear[i])[0])  # fmt: skip  # noqa: E501
            scale += weight[i]
    stable = True
    for i in range(n):
        if work[i] > 0.0:
            share[i] = total * weight[i] / scale
            service = service_derivatives(kind, share[i], work[i], quality[i], linear[i])[0]
            stable = stable and arrival_rate[i] * service < MAXIMUM_LOAD  # not where it is nan, on a dead link
    if stable:
        return True
    slack = total
    for i in range(n):
        least[i] = smallest_share(kind, total, work[i], quality[i], linear[i], arrival_rate[i])
        slack -= least[i]
    if not slack > 0.0:
        return False
    for i in range(n):
        if work[i] > 0.0:
            share[i] = least[i] + slack * weight[i] / scale
    return True


@compiled
def share_resource(kind, n, work, quality, linear, arrival_rate, price, variability, energy_price, square_price, share, step, trial, gradient, inverse, active):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Move shares so that ``sum price (s + W(s)) + energy_price s + square_price x^2`` is least. Arrays are (ues,).

    ``share`` holds stable shares (:func:`begin_shares`), and receives the result; their sum stays. ``step``, ``trial``,
    ``gradient``, ``inverse`` and ``active`` are scratch. Returns the number of Newton steps.
    """
    busy = 0
    for i in range(n):
        active[i] = work[i] > 0.0
        busy += active[i]
    if busy == 0:
        return 0
    cost = _cost_at(kind, share, n, work, quality, linear, arrival_rate, price, variability, energy_price, square_price, active, gradient, inverse)  # fmt: skip  # noqa: E501
    for iteration in range(MAXIMUM_STEPS):
        inverse_sum = 0.0
        weighted_sum = 0.0
        for i in range(n):
            if active[i]:
                inverse_sum += inverse[i]
                weighted_sum += gradient[i] * inverse[i]
        multiplier = weighted_sum / inverse_sum
        decrement = 0.0
        for i in range(n):
            if active[i]:
                residual = multiplier - gradient[i]
                step[i] = residual * inverse[i]
                decrement += residual * step[i]
        if decrement <= RELATIVE_DECREMENT * cost:
            # close enough for the quadratic model to hold: take the last step and be exact to rounding
            for i in range(n):
                if active[i]:
                    share[i] += step[i]
            return iteration + 1
        size = 1.0
        for _ in range(60):
            for i in range(n):
                trial[i] = share[i] + size * step[i]
            new_cost = _cost_at(kind, trial, n, work, quality, linear, arrival_rate, price, variability, energy_price, square_price, active, gradient, inverse)  # fmt: skip  # noqa: E501
            if new_cost <= cost - 0.1 * size * decrement or (decrement <= 1e-11 * cost and new_cost < np.inf):
                break
            size *= 0.5
        for i in range(n):
            if active[i]:
                share[i] = trial[i]
        cost = new_cost
    return MAXIMUM_STEPS


@compiled
def edge_wishes(total, n, tail, arrival_rate, price, variability, edge_square_price, share):  # type: ignore[no-untyped-def]
    """Fill the edge shares that each UE would have alone at that price of energy; whether they fit into ``total``."""
    wished = 0.0
    for i in range(n):
        share[i] = 0.0
        if tail[i] > 0.0:
            share[i] = device_speed(
                arrival_rate[i], tail[i], total, 1.0, 1.0, edge_square_price, price[i], variability[i]
            )
            wished += share[i]
    return wished <= total


@compiled
def station_sum(number, share, station):  # type: ignore[no-untyped-def]
    """Sum of shares (ues,) of one access point's UEs."""
    total = 0.0
    for i in range(station.shape[0]):
        if station[i] == number:
            total += share[i]
    return total


@compiled
def smallest_share(kind, total, work, quality, linear, arrival_rate):  # type: ignore[no-untyped-def]
    """The share of ``total`` that keeps a UE's load at MAXIMUM_LOAD; inf for spectrum that cannot be had."""
    needed = arrival_rate * work / MAXIMUM_LOAD
    return needed if kind == EDGE else smallest_spectrum(needed, quality, linear, total)


@compiled
def smallest_shares(n, station, spectrum, arrival_rate, wire_bits, tail, quality, linear, least_spectrum, least_edge):  # type: ignore[no-untyped-def]  # fmt: skip
    """Fill each UE's :func:`smallest_share` of spectrum and edge; return their sums: of spectrum the largest of any
    access point."""
    edge_sum = 0.0
    for i in range(n):
        least_spectrum[i] = smallest_share(SPECTRUM, spectrum, wire_bits[i], quality[i], linear[i], arrival_rate[i])
        least_edge[i] = smallest_share(EDGE, 0.0, tail[i], 0.0, False, arrival_rate[i])
        edge_sum += least_edge[i]
    largest = 0.0
    for number in range(station.max() + 1):
        largest = max(largest, station_sum(number, least_spectrum, station))
    return largest, edge_sum


@compiled
def surely_fit(n, station, spectrum, cpus, arrival_rate, wire_bits, tail, quality, linear):  # type: ignore[no-untyped-def]
    """Whether the :func:`smallest_shares` fit, told without a root: never wrongly yes, often wrongly no.

    R is concave: with a part of the spectrum a UE has at least that part of the rate that it has with all of it.
    """
    for number in range(station.max() + 1):
        hz = 0.0
        for i in range(n):
            if wire_bits[i] > 0.0 and station[i] == number:
                whole = service_derivatives(SPECTRUM, spectrum, wire_bits[i], quality[i], linear[i])[0]
                hz += arrival_rate[i] * whole / MAXIMUM_LOAD
        if not hz < 1.0:
            return False
    edge = 0.0
    for i in range(n):
        edge += arrival_rate[i] * tail[i] / MAXIMUM_LOAD
    return edge < cpus
