"""The same convex step by a general solver (cvxpy with CLARABEL): slow, independent, the oracle of the Newton solvers.

A DPP problem: built once per number of UEs and pattern of stages that have work, re-solved with new parameters.
Spectrum is in units of the total, edge in units of the total, rates in Mbit/s: CLARABEL needs numbers near 1.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import cvxpy
import numpy as np

from controller.solvers.allocation.evaluation import evaluate
from controller.solvers.allocation.problem import Allocation, AllocationModel, Demands, FloatArray, Limits, UeConstants
from controller.solvers.allocation.shares import LEAST_ARRIVAL_RATE, allocate

#: Tried in turn: close to saturation CLARABEL may give up at the tightest.
TOLERANCES = (1e-10, 1e-9, 1e-8)

cp: Any = cvxpy  # its type hints leave out its own atoms


class _Slot(NamedTuple):
    """One UE-by-UE slot in the solver's units; arrays (ues,)."""

    problem: Any
    parameters: dict[str, Any]
    variables: dict[str, Any]


@lru_cache(maxsize=64)
def _build(model: AllocationModel, head: tuple[int, ...], link: tuple[int, ...], edge: tuple[int, ...],
           linear: tuple[bool, ...], ues: int) -> _Slot:  # fmt: skip
    """``head``, ``link`` and ``edge`` are the indices of UEs with work there.

    Variables are loads u = lambda s per stage. s + W(s) = (u + u^2/(2(1-u))) / lambda = (u + 1/(1-u) - 1) / (2 lambda),
    speed f = lambda c / u.
    """
    variables: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    constraints: list[Any] = []
    cost: Any = 0.0

    def parameter(name: str, size: int) -> Any:
        parameters[name] = cp.Parameter(size, nonneg=True, name=name)
        return parameters[name]

    loads: dict[str, Any] = {}
    for stage, members in (("head", head), ("link", link), ("edge", edge)):
        if not members:
            continue
        load = cp.Variable(len(members), name=f"load_{stage}")
        loads[stage] = load
        variables[f"load_{stage}"] = load
        constraints.append(load >= 0)
        # price / lambda: of a service second, per unit of load
        service_price = parameter(f"service_price_{stage}", len(members))
        cost = cost + service_price @ load
        if stage == "link":
            cost = cost + parameter("energy_price", len(members)) @ load
        if model == "indep":
            cost = cost + parameter(f"wait_price_{stage}", len(members)) @ (cp.inv_pos(1 - load) - 1 - load)
    if head:
        speed = cp.Variable(len(head), name="speed")  # of the maximum
        variables["speed"] = speed
        constraints += [speed <= 1, cp.multiply(parameter("head_load", len(head)), cp.inv_pos(speed)) <= loads["head"]]
        cost = cost + parameter("kappa_energy", len(head)) @ cp.square(speed)
    if link:
        spectrum = cp.Variable(len(link), name="spectrum")  # of the total
        rate = cp.Variable(len(link), name="rate")  # of lambda d
        variables["spectrum"] = spectrum
        constraints += [cp.sum(spectrum) <= 1, cp.inv_pos(rate) <= loads["link"]]
        for position, index in enumerate(link):
            efficiency = parameter(f"efficiency_{index}", 1)
            if linear[index]:
                constraints.append(rate[position] <= cp.multiply(efficiency, spectrum[position])[0])
                continue
            # b log(1 + g/b) = -rel_entr(b, b + g): a perspective
            quality = parameter(f"quality_{index}", 1)
            entropy = cp.rel_entr(spectrum[position], spectrum[position] + quality[0])
            constraints.append(cp.multiply(efficiency[0], rate[position]) <= -entropy)
    if edge:
        share = cp.Variable(len(edge), name="share")  # of the total
        variables["share"] = share
        cost = cost + parameter("edge_energy", len(edge)) @ cp.square(share)
        constraints += [cp.sum(share) <= 1, cp.multiply(parameter("edge_load", len(edge)), cp.inv_pos(share)) <= loads["edge"]]  # fmt: skip  # noqa: E501
    if model == "exact":
        slowest = cp.Variable(ues, name="slowest")
        variables["slowest"] = slowest
        for stage, members in (("head", head), ("link", link), ("edge", edge)):
            for position, index in enumerate(members):
                constraints.append(loads[stage][position] <= slowest[index])
        constraints.append(slowest >= 0)
        cost = cost + parameter("wait_price", ues) @ (cp.inv_pos(1 - slowest) - 1 - slowest)
    return _Slot(cp.Problem(cp.Minimize(cost), constraints), parameters, variables)


def _fill(slot: _Slot, values: dict[str, FloatArray | float]) -> None:
    for name, parameter in slot.parameters.items():
        parameter.value = np.atleast_1d(np.asarray(values[name], dtype=np.float64))


def allocate_general(
    demands: Demands, ues: UeConstants, limits: Limits, model: AllocationModel = "indep"
) -> Allocation:
    """Same signature and result as :func:`controller.solvers.allocation.shares.allocate`, one slot after the other.

    Where the Newton solver's feasibility test fails, or CLARABEL finds no optimum, the slot comes back as that function
    gives it for ``indep``.
    """
    quick = allocate(demands, ues, limits, "indep")
    result = Allocation._make(np.array(field) for field in quick)
    for environment in np.flatnonzero(quick.feasible):
        _solve_slot(int(environment), demands, ues, limits, model, result)
    return evaluate(result, demands, ues, limits, model)


def _solve_slot(
    e: int, demands: Demands, ues: UeConstants, limits: Limits, model: AllocationModel, result: Allocation
) -> None:
    rate = np.maximum(demands.arrival_rate_per_second[e], LEAST_ARRIVAL_RATE)
    head, bits, tail = demands.head_seconds[e], demands.wire_bits[e], demands.tail_seconds[e]
    quality, queue = demands.link_quality[e], demands.queue_joules[e]
    members = {name: np.flatnonzero(work > 0) for name, work in (("head", head), ("link", bits), ("edge", tail))}
    count = rate.size
    spectrum_hz, edge_cpus = limits.spectrum_hz, limits.edge_cpus
    slot = _build(
        model,
        tuple(int(i) for i in members["head"]),
        tuple(int(i) for i in members["link"]),
        tuple(int(i) for i in members["edge"]),
        tuple(bool(x) for x in ues.linear),
        count,
    )
    price = limits.v * demands.weight[e]
    tasks = rate * limits.slot_seconds
    scale = float(np.mean(price / rate))  # the cost in units near 1
    values: dict[str, FloatArray | float] = {"wait_price": price * ues.variability / rate / 2 / scale}
    for name, index in members.items():
        values[f"service_price_{name}"] = (price / rate)[index] / scale
        values[f"wait_price_{name}"] = (price * ues.variability / rate)[index] / 2 / scale
    index = members["head"]
    values["head_load"] = (rate * head / ues.max_speed)[index]
    values["kappa_energy"] = (queue * tasks * ues.kappa * ues.max_speed**2 * head)[index] / scale
    values["energy_price"] = (queue * tasks * ues.transmit_watts / rate)[members["link"]] / scale
    for i in members["link"]:
        needed = rate[i] * bits[i]
        if ues.linear[i]:
            values[f"efficiency_{i}"] = quality[i] * spectrum_hz / needed
        else:
            values[f"efficiency_{i}"] = needed * np.log(2) / spectrum_hz
            values[f"quality_{i}"] = quality[i] / spectrum_hz
    values["edge_energy"] = (limits.edge_square_price * edge_cpus**2 * rate * tail)[members["edge"]] / scale
    values["edge_load"] = (rate * tail / edge_cpus)[members["edge"]]
    _fill(slot, values)
    if not _solved(slot.problem):
        return
    if members["head"].size:
        speed = slot.variables["speed"].value * ues.max_speed[members["head"]]
        result.device_speed[e, members["head"]] = np.minimum(speed, ues.max_speed[members["head"]])
    if members["link"].size:
        share = slot.variables["spectrum"].value
        result.spectrum_hz[e, members["link"]] = share * spectrum_hz / share.sum()
    if members["edge"].size:
        share = slot.variables["share"].value
        used = 1.0 if limits.edge_square_price > 0 else share.sum()
        result.edge_share[e, members["edge"]] = share * edge_cpus / used


def _solved(problem: Any) -> bool:
    with warnings.catch_warnings():
        # "may be inaccurate": CLARABEL stops at 1e-9 or so near saturation; the cost is recomputed from the shares
        warnings.simplefilter("ignore", UserWarning)
        for tolerance in TOLERANCES:
            try:
                problem.solve(
                    solver=cp.CLARABEL,
                    tol_gap_abs=tolerance,
                    tol_gap_rel=tolerance,
                    tol_feas=tolerance,
                    max_iter=200,
                )
            except cp.error.SolverError:
                continue
            if problem.status in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
                return True
    return False
