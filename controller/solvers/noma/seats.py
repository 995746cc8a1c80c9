"""Seats: one subchannel per UE and direction, from a relaxed optimum, and better ones by moves and exchanges [ours]."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from controller.solvers.noma.descent import Options
from controller.solvers.noma.relaxation import DOWN, UP, Floats, Integers, Relaxation, SplitProblem

#: Candidates that are compared at once.
_COMPARED = 256


def compare(relaxed: Relaxation, row: int, z: Tensor, splits: Tensor, frozen: Tensor | None) -> Tensor:
    """Cost of a problem's candidates at one point. ``splits`` (C, M) or (M,); ``frozen`` (2, M, N) or (C, 2, M, N)."""
    if splits.dim() == 1:
        assert frozen is not None
        count = frozen.shape[0]
        splits = splits.expand(count, -1)
    else:
        count = splits.shape[0]
        frozen = None if frozen is None else frozen.expand(count, -1, -1, -1)
    costs = []
    with torch.no_grad():
        for start in range(0, count, _COMPARED):
            part = splits[start : start + _COMPARED]
            same = relaxed.repeated(row, part.shape[0])
            held = None if frozen is None else frozen[start : start + _COMPARED]
            costs.append(same.evaluate(z.expand(part.shape[0], -1), same.at_split(part), held).cost)
    return torch.cat(costs)


def rounded(problem: SplitProblem, on: Floats, remote: Floats) -> Integers:
    """(2, UEs): UEs in falling order of their largest part take their best subchannel with a seat; -1: none left."""
    points = np.zeros(len(remote), dtype=np.int64) if problem.access_points is None else problem.access_points
    seats = np.full((2, len(remote)), -1, dtype=np.int64)
    for direction in (UP, DOWN):
        taken = np.zeros((int(points.max()) + 1, on.shape[2]), dtype=np.int64)
        for ue in np.argsort(-on[direction].max(axis=1), kind="stable"):
            if not remote[ue]:
                continue
            free = taken[points[ue]] < problem.users_per_subchannel
            if free.any():
                best = int(np.argmax(np.where(free, on[direction, ue], -1.0)))
                seats[direction, ue] = best
                taken[points[ue], best] += 1
    return seats


def one_hot(relaxed: Relaxation, seats: Tensor) -> Tensor:
    held = torch.nn.functional.one_hot(seats.clamp(min=0), relaxed.subchannels).to(torch.float64)
    return held * (seats >= 0)[..., None]


def better_seats(relaxed: Relaxation, row: int, z: Tensor, split: Tensor, seats: Tensor, options: Options) -> Tensor:
    """The seats of a problem after a few moves and exchanges, each the one that lowers the cost most at ``z``."""
    result = seats[row].clone()
    value = compare(relaxed, row, z[row], split[row], one_hot(relaxed, result[None]))[0]
    for _ in range(options.seat_moves):
        found = _exchanges(result.cpu().numpy(), relaxed.problems[row], relaxed.subchannels, options.seat_candidates)
        if not len(found):
            break
        candidates = torch.as_tensor(found, device=z.device)
        costs = compare(relaxed, row, z[row], split[row], one_hot(relaxed, candidates))
        if costs.min() >= value * (1 - options.tolerance):
            break
        value, result = costs.min(), candidates[costs.argmin()]
    return result


def _exchanges(seats: Integers, problem: SplitProblem, subchannels: int, limit: int) -> Integers:
    """Seatings that differ by one UE's move to a free seat or by two UEs' exchange, in one direction or both.

    (candidates, 2, UEs); an even choice of ``limit`` where there are more.
    """
    ues = seats.shape[1]
    points = np.zeros(ues, dtype=np.int64) if problem.access_points is None else problem.access_points
    users = np.array([
        [[np.sum((seats[way] == number) & (points == point)) for number in range(subchannels)] for way in (UP, DOWN)]
        for point in range(int(points.max()) + 1)
    ])  # fmt: skip
    parts = []
    seated = np.flatnonzero(seats[UP] >= 0)
    first, second = (seated[side] for side in np.triu_indices(len(seated), 1))
    ue, number = (grid.ravel() for grid in np.meshgrid(seated, np.arange(subchannels), indexing="ij"))
    for ways in ([UP], [DOWN], [UP, DOWN]):
        free = np.all([users[points[ue], way, number] < problem.users_per_subchannel for way in ways], axis=0)
        free &= np.all([seats[way, ue] != number for way in ways], axis=0)
        differ = np.any([seats[way, first] != seats[way, second] for way in ways], axis=0)
        differ &= points[first] == points[second]
        moved = np.repeat(seats[np.newaxis], free.sum(), axis=0)
        exchanged = np.repeat(seats[np.newaxis], differ.sum(), axis=0)
        for way in ways:
            moved[np.arange(len(moved)), way, ue[free]] = number[free]
            at = np.arange(len(exchanged))
            exchanged[at, way, first[differ]] = seats[way, second[differ]]
            exchanged[at, way, second[differ]] = seats[way, first[differ]]
        parts += [moved, exchanged]
    found = np.concatenate(parts)
    return found[np.linspace(0, len(found) - 1, limit).astype(np.int64)] if len(found) > limit else found
