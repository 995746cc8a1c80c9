"""Split, subchannels, powers and edge shares of a cell's UEs at once, by gradient descent with warm starts (Li-GD).

After X. Yuan et al., "High Efficiency Inference Accelerating Algorithm for NOMA-based Mobile Edge Computing" (arXiv
2312.15850): the splits are tried in order, and the descent of each starts at the optimum of the one before ("loop
iteration"). Stopping, refinement per UE and rounding are our reconstruction [ours].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from controller.solvers.noma.descent import THOROUGH, Options, descend, one_thread
from controller.solvers.noma.relaxation import Floats, Integers, Relaxation, SplitProblem
from controller.solvers.noma.seats import better_seats, compare, one_hot, rounded

#: Seatings that descend at once.
_SEATINGS = 512


@dataclass(frozen=True)
class SplitPlan:
    """What was found for one problem. ``subchannel`` is -1 where a UE holds none."""

    split: Integers  # (UEs,)
    subchannel: Integers  # (2, UEs)
    watts: Floats  # (2, UEs)
    band_ratio: Floats  # (2, UEs): of its subchannel; 1 for superposed UEs
    edge_share: Floats  # (UEs,), in the unit of edge_capacity
    rates_bits_per_second: Floats  # (2, UEs)
    seconds: Floats  # (UEs,)
    joules: Floats  # (UEs,)
    cost: float
    relaxed_cost: float  # before rounding
    common_split: int  # of the chain
    common_cost: float
    point: Floats  # the relaxed optimum at the common split, a start for a cell that is alike
    iterations: int  # of the chain over the splits
    later_iterations: int  # of refinement and rounding


@dataclass(frozen=True)
class Chain:
    """The descents over the common splits, one entry per problem."""

    z: Tensor  # (problems, variables) at the best split
    split: Tensor  # (problems,)
    cost: Tensor  # (problems,)
    iterations: Tensor  # (problems, splits)
    step: Tensor  # (problems,)


@one_thread()
def solve(
    problems: Sequence[SplitProblem],
    options: Options = THOROUGH,
    *,
    seed: int = 0,
    warm: bool = True,
    start: Tensor | None = None,
) -> list[SplitPlan]:
    """Chain, splits per UE, rounding, descent on what is left, and never worse for a UE than to stay local.

    ``warm=False`` is cold GD. ``start`` (problems, variables) replaces the random start. Raises ValueError for problems
    of different sizes.
    """
    with torch.no_grad():
        relaxed = Relaxation(problems, options.device)
    z = relaxed.start(options.start_scale, seed) if start is None else start
    common = chain(relaxed, z, options, warm=warm)
    split = common.split[:, None].expand(-1, relaxed.ues).clone()
    z, split, value, later = refine(relaxed, common.z, split, options, step=common.step)
    relaxed_cost = value
    penalised = z
    for weight in options.entropy_weights:
        penalised, _, count, _ = descend(relaxed.cost(split, entropy_weight=weight), penalised, options)
        later = later + count
    points = [z, penalised] if options.entropy_weights else [z]
    z, split, seats, value, count = _rounded_best(relaxed, points, split, options)
    later = later + count
    z, split, count = _resplit(relaxed, z, split, seats, value, options)
    later = later + count
    return [
        _plan(relaxed, row, z, split, seats, float(relaxed_cost[row]), common, int(later[row]))
        for row in range(len(problems))
    ]


@one_thread()
def evaluate_seats(problem: SplitProblem, seats: Integers, options: Options = THOROUGH) -> SplitPlan:
    """The best of given seatings (candidates, 2, UEs), -1: no seat, each with its own splits, powers and shares.

    The chain and the refinement run once per candidate, batched, at its subchannels.
    """
    best: SplitPlan | None = None
    for begin in range(0, len(seats), _SEATINGS):
        part = torch.as_tensor(seats[begin : begin + _SEATINGS], device=options.device)
        relaxed = Relaxation([problem], options.device).repeated(0, len(part))
        frozen = one_hot(relaxed, part)
        z = torch.zeros((len(part), relaxed.variables), dtype=torch.float64, device=part.device)
        common = chain(relaxed, z, options, frozen=frozen, standing=(part < 0).any(dim=1))
        split = _common(relaxed, common.split, (part < 0).any(dim=1))
        z, split, value, later = refine(relaxed, common.z, split, options, frozen, common.step)
        row = int(value.argmin())
        plan = _plan(relaxed, row, z, split, part, float(value[row]), common, int(later[row]))
        if best is None or plan.cost < best.cost:
            best = plan
    if best is None:
        raise ValueError("no seating was given")
    return best


def chain(
    relaxed: Relaxation,
    z: Tensor,
    options: Options,
    *,
    warm: bool = True,
    frozen: Tensor | None = None,
    standing: Tensor | None = None,
) -> Chain:
    """Descend at every common split in turn, from ``z`` (cold GD) or from where the one before ended (Li-GD).

    ``frozen`` are seats (B, 2, M, N), ``standing`` (B, M) marks UEs without one: they stay local.
    """
    batch = z.shape[0]
    fixed = 0 if frozen is None else 2 * relaxed.ues * relaxed.subchannels
    if standing is None:
        standing = torch.zeros((batch, relaxed.ues), dtype=torch.bool, device=z.device)
    best_z, point = z, z
    best_step = torch.ones(batch, dtype=z.dtype, device=z.device)
    best = torch.full((batch,), torch.inf, dtype=z.dtype, device=z.device)
    best_split = torch.zeros(batch, dtype=torch.int64, device=z.device)
    iterations = []
    for number in range(relaxed.splits):
        split = _common(relaxed, torch.full((batch,), number, device=z.device), standing)
        point, value, count, step = descend(relaxed.cost(split, frozen), point if warm else z, options, fixed)
        iterations.append(count)
        better = value < best
        best, best_split = torch.where(better, value, best), torch.where(better, number, best_split)
        best_z = torch.where(better[:, None], point, best_z)
        best_step = torch.where(better, step, best_step)
    return Chain(best_z, best_split, best, torch.stack(iterations, dim=1), best_step)


def _common(relaxed: Relaxation, split: Tensor, standing: Tensor) -> Tensor:
    """One split (B,) for all UEs but those without a seat, (B, M)."""
    return torch.where(standing, relaxed.splits - 1, split[:, None].expand(-1, relaxed.ues))


def refine(
    relaxed: Relaxation,
    z: Tensor,
    split: Tensor,
    options: Options,
    frozen: Tensor | None = None,
    step: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each UE takes the split that is best for it at the present rates, then all descend again, until nobody moves.

    UEs that compute on the device come back one at a time, if the whole cost falls. Returns (z, splits, cost,
    iterations); the cost never rises.
    """
    fixed = 0 if frozen is None else 2 * relaxed.ues * relaxed.subchannels
    z, value, iterations, step = descend(relaxed.cost(split, frozen), z, options, fixed, step)
    for _ in range(options.refine_rounds):
        with torch.no_grad():
            wanted = relaxed.own_costs(z, split, frozen).argmin(dim=2)
            wanted = torch.where(wanted == split, _returning(relaxed, z, split, frozen), wanted)
        changed = (wanted != split).any(dim=1)
        if not bool(changed.any()):
            break
        trial, reached, count, step = descend(relaxed.cost(wanted, frozen), z, options, fixed, step)
        iterations = iterations + torch.where(changed, count, 0)
        better = changed & (reached < value)
        z = torch.where(better[:, None], trial, z)
        split = torch.where(better[:, None], wanted, split)
        value = torch.where(better, reached, value)
        if not bool(better.any()):
            break
    return z, split, value, iterations


def _returning(relaxed: Relaxation, z: Tensor, split: Tensor, frozen: Tensor | None) -> Tensor:
    """The splits with one local UE per problem sent back to the edge, the one that lowers the cost most, if any."""
    result = split.clone()
    may = relaxed.at_split(split).remote == 0
    if frozen is not None:
        may &= (frozen.sum(dim=3) > 0).all(dim=1)
    present = relaxed.evaluate(z, relaxed.at_split(split), frozen).cost
    numbers = torch.arange(relaxed.splits, device=z.device)
    for row in torch.nonzero(may.any(dim=1))[:, 0].tolist():
        users = torch.nonzero(may[row])[:, 0]
        candidates = split[row].repeat(len(users) * relaxed.splits, 1)
        at = torch.arange(len(candidates), device=z.device)
        candidates[at, users.repeat_interleave(relaxed.splits)] = numbers.repeat(len(users))
        costs = compare(relaxed, row, z[row], candidates, None if frozen is None else frozen[row])
        if costs.min() < present[row]:
            result[row] = candidates[costs.argmin()]
    return result


def _rounded_best(
    relaxed: Relaxation, points: Sequence[Tensor], split: Tensor, options: Options
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Seats from each of several relaxed points, descents at them, and for every problem what costs least.

    Returns (z, splits, seats, cost, iterations).
    """
    # whoever found no seat computes on the device
    local = torch.full_like(split, relaxed.splits - 1)
    remote = relaxed.at_split(split).remote.cpu().numpy()
    best: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None = None
    for point in points:
        with torch.no_grad():
            on = relaxed.evaluate(point, relaxed.at_split(split)).on.cpu().numpy()
        taken = [rounded(*one) for one in zip(relaxed.problems, on, remote, strict=True)]
        seats = torch.as_tensor(np.stack(taken), device=relaxed.device)
        seated = torch.where((seats >= 0).all(dim=1), split, local)
        found = _settle(relaxed, point, seated, seats, options)
        if best is None:
            best = found
            continue
        better = found[3] < best[3]
        z, chosen, held, value = (
            torch.where(better.view(-1, *[1] * (new.dim() - 1)), new, old)
            for new, old in zip(found[:4], best[:4], strict=True)
        )
        best = z, chosen, held, value, best[4] + found[4]
    assert best is not None
    return best


def _settle(
    relaxed: Relaxation, z: Tensor, split: Tensor, seats: Tensor, options: Options
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Powers and shares for fixed seats; then seats are moved and exchanged while that lowers the cost.

    Returns (z, splits, seats, cost, iterations).
    """
    z, split, value, iterations = refine(relaxed, z, split, options, one_hot(relaxed, seats))
    for _ in range(options.seat_rounds):
        moved = torch.stack([better_seats(relaxed, row, z, split, seats, options) for row in range(z.shape[0])])
        changed = (moved != seats).flatten(1).any(dim=1)
        if not bool(changed.any()):
            break
        trial, tried, reached, count = refine(relaxed, z, split, options, one_hot(relaxed, moved))
        iterations = iterations + torch.where(changed, count, 0)
        better = reached < value
        z, split = torch.where(better[:, None], trial, z), torch.where(better[:, None], tried, split)
        seats = torch.where(better[:, None, None], moved, seats)
        value = torch.where(better, reached, value)
        if not bool(better.any()):
            break
    return z, split, seats, value, iterations


def _resplit(
    relaxed: Relaxation, z: Tensor, split: Tensor, seats: Tensor, value: Tensor, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """One UE's split changed at a time, with a descent after each change: what is best at the present rates may not be
    best at those that follow. Returns (z, splits, iterations); the cost never rises."""
    z, split = z.clone(), split.clone()
    iterations = torch.zeros(z.shape[0], dtype=torch.int64, device=z.device)
    fixed = 2 * relaxed.ues * relaxed.subchannels
    for row in range(z.shape[0]):
        seated = torch.nonzero((seats[row] >= 0).all(dim=0))[:, 0]
        least = value[row]
        for _ in range(options.split_rounds):
            trials = _single_changes(relaxed, split[row], seated)
            if not 0 < len(trials) <= options.split_trials:
                break
            same = relaxed.repeated(row, len(trials))
            frozen = one_hot(relaxed, seats[row][None]).expand(len(trials), -1, -1, -1)
            found = descend(same.cost(trials, frozen), z[row].expand(len(trials), -1).clone(), options, fixed)
            iterations[row] += found.iterations.max()
            best = int(found.cost.argmin())
            if not found.cost[best] < least * (1 - options.tolerance):
                break
            least, z[row], split[row] = found.cost[best], found.z[best], trials[best]
    return z, split, iterations


def _single_changes(relaxed: Relaxation, split: Tensor, users: Tensor) -> Tensor:
    """(changes, UEs): the splits with one of the users at another one."""
    trials = split.repeat(len(users) * relaxed.splits, 1)
    at = torch.arange(len(trials), device=split.device)
    trials[at, users.repeat_interleave(relaxed.splits)] = torch.arange(relaxed.splits, device=split.device).repeat(
        len(users)
    )
    return trials[(trials != split).any(dim=1)]


def _plan(
    relaxed: Relaxation, row: int, z: Tensor, split: Tensor, seats: Tensor, relaxed_cost: float, common: Chain,
    later: int,
) -> SplitPlan:  # fmt: skip
    one = relaxed.repeated(row, 1)  # without the other problems
    frozen = one_hot(relaxed, seats[row][None])
    chosen = one.at_split(split[row][None])
    with torch.no_grad():
        found = one.evaluate(z[row][None], chosen, frozen)

    def array(values: Tensor) -> Floats:
        return np.asarray(values[0].cpu().numpy())

    remote = array(chosen.remote) > 0
    return SplitPlan(
        split=split[row].cpu().numpy(),
        subchannel=np.where(remote, seats[row].cpu().numpy(), -1),
        watts=array(found.watts),
        band_ratio=array((found.band * frozen).sum(dim=3)),
        edge_share=np.where(remote, array(found.share), 0.0),
        rates_bits_per_second=np.where(remote, array(found.rates), 0.0),
        seconds=array(found.seconds),
        joules=array(found.joules),
        cost=float(found.cost),
        relaxed_cost=relaxed_cost,
        common_split=int(common.split[row]),
        common_cost=float(common.cost[row]),
        point=common.z[row].cpu().numpy(),
        iterations=int(common.iterations[row].sum()),
        later_iterations=later,
    )
