"""Gradient descent with Armijo backtracking on a batch of independent problems, each with its own step (torch)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from controller.solvers.noma.relaxation import Cost

_TINY = 1e-30
_LEAST_STEP = 1e-12


@dataclass(frozen=True)
class Options:
    """How the descent goes and stops [ours]."""

    armijo: float = 1e-4
    tolerance: float = 1e-5  # of the relative decrease
    patience: int = 3  # decreases in a row under the tolerance
    max_iterations: int = 3000  # per split
    refine_rounds: int = 5
    start_scale: float = 0.01  # of the random start
    #: rising weights of a penalty on spreading over subchannels, per UE: seats are then found from that descent's end,
    #: too, and the better ones are kept; (): from the optimum without a penalty only
    entropy_weights: tuple[float, ...] = (0.025, 0.05, 0.1)
    seat_rounds: int = 3  # of moving UEs between subchannels after rounding, each followed by a descent
    seat_moves: int = 8  # in a round
    seat_candidates: int = 512  # that a move is the best of
    split_rounds: int = 5  # of changing one UE's split, each change followed by a descent; the best is kept
    split_trials: int = 64  # in a round; a cell with more single changes than that has none
    device: str = "cpu"


#: For a cell that is decided once.
THOROUGH = Options()
#: For a decision every slot: a looser stop, and fewer trials of other seats.
PER_SLOT = Options(tolerance=1e-4, entropy_weights=(), seat_rounds=1, seat_moves=4, split_rounds=2)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: arrays this small lose by more, ten times and more on a busy host."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Descent(NamedTuple):
    """Where a descent ended, one entry per problem."""

    z: Tensor
    cost: Tensor
    iterations: Tensor
    step: Tensor  # that a following descent may begin with


def descend(cost: Cost, z: Tensor, options: Options, fixed: int = 0, step: Tensor | None = None) -> Descent:
    """Gradient descent with Armijo backtracking from ``z`` (problems, variables).

    The step (1 at first, or ``step``) halves until it decreases the cost enough and doubles after each move. A problem
    stops after ``patience`` moves in a row that gain less than ``tolerance``. The first ``fixed`` variables stay.
    """
    value, gradient = _gradient(cost, z, fixed)
    batch = z.shape[0]
    step = torch.ones(batch, dtype=z.dtype, device=z.device) if step is None else step
    calm = torch.zeros(batch, dtype=torch.int64, device=z.device)
    iterations = torch.zeros(batch, dtype=torch.int64, device=z.device)
    active = torch.ones(batch, dtype=torch.bool, device=z.device)
    for _ in range(options.max_iterations):
        slope = (gradient * gradient).sum(dim=1)
        active = active & (slope > 0)
        if not bool(active.any()):
            break
        while True:
            trial = (z - torch.where(active, step, 0.0)[:, None] * gradient).requires_grad_()
            reached = cost(trial)
            good = (reached <= value - options.armijo * step * slope) | ~active
            good |= step < _LEAST_STEP
            if bool(good.all()):
                break
            step = torch.where(good, step, step / 2)
        stuck = active & (step < _LEAST_STEP)
        moved = active & ~stuck
        (found,) = torch.autograd.grad(reached.sum(), trial)
        found[:, :fixed] = 0.0
        decrease = torch.where(moved, (value - reached.detach()) / value.abs().clamp(min=_TINY), 0.0)
        z = torch.where(moved[:, None], trial.detach(), z)
        value = torch.where(moved, reached.detach(), value)
        gradient = torch.where(moved[:, None], found, gradient)
        iterations += moved
        calm = torch.where(decrease < options.tolerance, calm + 1, 0)
        active = moved & (calm < options.patience)
        step = torch.where(moved, 2 * step, step)
    return Descent(z, value, iterations, step)


def _gradient(cost: Cost, z: Tensor, fixed: int) -> tuple[Tensor, Tensor]:
    at = z.detach().requires_grad_()
    value = cost(at)
    (gradient,) = torch.autograd.grad(value.sum(), at)
    gradient[:, :fixed] = 0.0
    return value.detach(), gradient
