"""Interior-point Newton for the ``exact`` delay model: the slowest of three stages couples a UE's resources.

In epigraph form, with ``y_n >= lambda_n s_{n,i}`` for every stage i, a slot costs

    sum_n  P_n (s_u + s_t + s_e) + Q_n E_n + P_n W(y_n / lambda_n),      P_n = V w_n,

where W is convex and increasing. A logarithmic barrier on the ``y_n - lambda_n s_{n,i}`` and on ``s_max - f_n`` makes
it smooth. Each UE's Hessian is an arrow (three resources, coupled through y), and the two totals couple the UEs, so a
Newton step costs O(ues). The gap to the optimum is (number of barriers) x (barrier weight).
"""

from __future__ import annotations

import numpy as np

from controller.compiled import compiled
from controller.solvers.allocation.newton import EDGE, SPECTRUM, service_derivatives

#: Gap to the optimum, relative to the cost, at which the path ends.
RELATIVE_GAP = 1e-9
BARRIER_REDUCTION = 0.1
MAXIMUM_STEPS = 400


@compiled
def _merit(n, x, y, work, quality, linear, rate, max_speed, price, variability, energy_price, kappa_energy, barrier):  # type: ignore[no-untyped-def]  # fmt: skip
    """(cost, cost + barriers); inf outside the domain. x is (3, n): speed, spectrum, edge."""
    cost = 0.0
    logs = 0.0
    for i in range(n):
        slowest = False
        if y[i] >= 1.0:
            return np.inf, np.inf
        for stage in range(3):
            if work[stage, i] <= 0.0:
                continue
            slowest = True
            share = x[stage, i]
            if share <= 0.0:
                return np.inf, np.inf
            kind = SPECTRUM if stage == 1 else EDGE
            service = service_derivatives(kind, share, work[stage, i], quality[i], linear[i])[0]
            gap = y[i] - rate[i] * service
            if gap <= 0.0:
                return np.inf, np.inf
            logs += np.log(gap)
            cost += price[i] * service
            if stage == 0:
                room = max_speed[i] - share
                if room <= 0.0:
                    return np.inf, np.inf
                logs += np.log(room / max_speed[i])
                cost += kappa_energy[i] * share * share
            elif stage == 1:
                cost += energy_price[i] * service
        if slowest:
            cost += price[i] * variability[i] * y[i] * y[i] / (2.0 * rate[i] * (1.0 - y[i]))
    return cost, cost - barrier * logs


@compiled
def solve_exact(n, x, work, quality, linear, rate, max_speed, price, variability, energy_price, kappa_energy):  # type: ignore[no-untyped-def]  # fmt: skip
    """Move ``x`` (3, n: speed, spectrum, edge), strictly stable and summing to its totals, to the optimum.

    ``work`` is (3, n) in seconds, bits, seconds; a stage without work keeps its x. ``kappa_energy`` is the factor of
    f^2 in ``Q E``. Returns the number of Newton steps, negative if it ran out of them.
    """
    y = np.zeros(n)
    new_x = x.copy()
    new_y = np.zeros(n)
    step_x = np.zeros((3, n))
    step_y = np.zeros(n)
    gradient = np.zeros((3, n))
    diagonal = np.ones((3, n))
    coupling = np.zeros((3, n))
    pivot = np.ones(n)
    gradient_y = np.zeros(n)
    barriers = 0
    for i in range(n):
        largest = 0.0
        for stage in range(3):
            if work[stage, i] <= 0.0:
                continue
            barriers += 1
            if stage == 0:
                barriers += 1
                least = rate[i] * work[0, i]
                x[0, i] = min(x[0, i], 0.5 * (least + max_speed[i]) if least > 0.9 * max_speed[i] else 0.95 * max_speed[i])  # fmt: skip  # noqa: E501
                x[0, i] = max(x[0, i], least + 1e-3 * (max_speed[i] - least))
            kind = SPECTRUM if stage == 1 else EDGE
            service = service_derivatives(kind, x[stage, i], work[stage, i], quality[i], linear[i])[0]
            largest = max(largest, rate[i] * service)
        y[i] = 0.5 * (1.0 + largest)
    if barriers == 0:
        return 0
    cost, merit = _merit(
        n, x, y, work, quality, linear, rate, max_speed, price, variability, energy_price, kappa_energy, 0.0
    )
    barrier = 0.1 * cost / barriers
    cost, merit = _merit(
        n, x, y, work, quality, linear, rate, max_speed, price, variability, energy_price, kappa_energy, barrier
    )
    for iteration in range(MAXIMUM_STEPS):
        # A diag(H)^-1 A^T for the two totals, and A H^-1 g
        schur_00 = 0.0
        schur_11 = 0.0
        schur_01 = 0.0
        right_0 = 0.0
        right_1 = 0.0
        for i in range(n):
            gradient_y[i] = 0.0
            curvature_y = 0.0
            pivot[i] = 0.0
            for stage in range(3):
                if work[stage, i] <= 0.0:
                    continue
                kind = SPECTRUM if stage == 1 else EDGE
                s, s1, s2 = service_derivatives(kind, x[stage, i], work[stage, i], quality[i], linear[i])
                value = price[i] + (energy_price[i] if stage == 1 else 0.0)
                slope = value * s1
                curvature = value * s2
                if stage == 0:
                    room = 1.0 / (max_speed[i] - x[0, i])
                    slope += 2.0 * kappa_energy[i] * x[0, i] + barrier * room
                    curvature += 2.0 * kappa_energy[i] + barrier * room * room
                gap = 1.0 / (y[i] - rate[i] * s)
                push = barrier * gap
                gradient[stage, i] = slope + push * rate[i] * s1
                diagonal[stage, i] = curvature + push * rate[i] * s2 + push * gap * (rate[i] * s1) ** 2
                coupling[stage, i] = -push * gap * rate[i] * s1
                gradient_y[i] -= push
                # y's pivot after eliminating the stages, written without cancellation: h - c^2/d
                bare = curvature + push * rate[i] * s2
                curvature_y += push * gap * bare / diagonal[stage, i]
                pivot[i] = 1.0
            if pivot[i] == 0.0:
                continue
            spare = 1.0 / (1.0 - y[i])
            wait_price = price[i] * variability[i] / rate[i]
            gradient_y[i] += wait_price * 0.5 * (spare * spare - 1.0)
            curvature_y += wait_price * spare * spare * spare
            pivot[i] = curvature_y
            # H^-1 of an arrow matrix applied to g and to the unit vectors of spectrum and edge
            reduced = gradient_y[i]
            for stage in range(3):
                if work[stage, i] > 0.0:
                    reduced -= coupling[stage, i] * gradient[stage, i] / diagonal[stage, i]
            reduced /= pivot[i]
            link = 0.0
            edge = 0.0
            if work[1, i] > 0.0:
                link = coupling[1, i] / diagonal[1, i]
                schur_00 += 1.0 / diagonal[1, i] + link * link / pivot[i]
                right_0 += gradient[1, i] / diagonal[1, i] - link * reduced
            if work[2, i] > 0.0:
                edge = coupling[2, i] / diagonal[2, i]
                schur_11 += 1.0 / diagonal[2, i] + edge * edge / pivot[i]
                right_1 += gradient[2, i] / diagonal[2, i] - edge * reduced
            schur_01 += link * edge / pivot[i]
        price_0 = 0.0
        price_1 = 0.0
        determinant = schur_00 * schur_11 - schur_01 * schur_01
        if schur_00 > 0.0 and schur_11 > 0.0 and determinant > 0.0:
            price_0 = (schur_11 * right_0 - schur_01 * right_1) / determinant
            price_1 = (schur_00 * right_1 - schur_01 * right_0) / determinant
        elif schur_00 > 0.0:
            price_0 = right_0 / schur_00
        elif schur_11 > 0.0:
            price_1 = right_1 / schur_11
        decrement = 0.0
        for i in range(n):
            if pivot[i] == 0.0:
                continue
            reduced = -gradient_y[i]
            for stage in range(3):
                if work[stage, i] > 0.0:
                    pull = price_0 if stage == 1 else (price_1 if stage == 2 else 0.0)
                    reduced -= coupling[stage, i] * (pull - gradient[stage, i]) / diagonal[stage, i]
            step_y[i] = reduced / pivot[i]
            decrement -= gradient_y[i] * step_y[i]
            for stage in range(3):
                if work[stage, i] > 0.0:
                    pull = price_0 if stage == 1 else (price_1 if stage == 2 else 0.0)
                    step_x[stage, i] = (pull - gradient[stage, i] - coupling[stage, i] * step_y[i]) / diagonal[stage, i]
                    decrement -= gradient[stage, i] * step_x[stage, i]
                else:
                    step_x[stage, i] = 0.0
        last = barrier * barriers <= RELATIVE_GAP * cost
        if decrement <= (1e-3 * barrier if last else 0.5 * barrier):
            if last:
                return iteration + 1
            barrier *= BARRIER_REDUCTION
            cost, merit = _merit(n, x, y, work, quality, linear, rate, max_speed, price, variability, energy_price, kappa_energy, barrier)  # fmt: skip  # noqa: E501
            continue
        size = 1.0
        new_cost = cost
        new_merit = merit
        moved = False
        for _ in range(60):
            for i in range(n):
                new_y[i] = y[i] + size * step_y[i]
                for stage in range(3):
                    new_x[stage, i] = x[stage, i] + size * step_x[stage, i]
            new_cost, new_merit = _merit(n, new_x, new_y, work, quality, linear, rate, max_speed, price, variability, energy_price, kappa_energy, barrier)  # fmt: skip  # noqa: E501
            if new_merit <= merit - 0.05 * size * decrement:
                moved = True
                break
            size *= 0.5
        if not moved:
            # rounding has eaten the descent: this barrier weight is as far as double precision goes
            if last:
                return iteration + 1
            barrier *= BARRIER_REDUCTION
            cost, merit = _merit(n, x, y, work, quality, linear, rate, max_speed, price, variability, energy_price, kappa_energy, barrier)  # fmt: skip  # noqa: E501
            continue
        for i in range(n):
            y[i] = new_y[i]
            for stage in range(3):
                x[stage, i] = new_x[stage, i]
        cost, merit = new_cost, new_merit
    return -MAXIMUM_STEPS
