"""The cost of a cell - delay and energy of all its UEs - as a smooth function of subchannels, powers and edge shares.

For gradient descent in torch, batched: every array carries a leading axis of independent problems of the same size. The
rates are those of :mod:`controller.model.radio`; model and relaxation are our reconstruction of what the Li-GD papers
describe [ours].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from controller.model.sic import disturbers_first

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Access = Literal["noma", "ofdma"]
#: U(z): (problems, variables) -> (problems,)
Cost = Callable[[Tensor], Tensor]

UP, DOWN = 0, 1
#: fields of SplitProblem that are (UEs, splits)
TABLES = ("device_seconds", "device_joules", "up_bits", "down_bits", "edge_work", "constant_seconds")
#: added to the logit of a UE that takes no part
_BLOCKED = -1e3
#: ... and of one that another access point serves: a station whose own UEs all take no part does not serve that one
_ELSEWHERE = -1e6
_TINY = 1e-30
_LEAST_GAIN = 1e-30
#: A UE that takes no part has a share of exactly 0 and no work: 0 / 0. Its square, in the gradient, is above 0.
_LEAST_SHARE = 1e-100


@dataclass(frozen=True)
class SplitProblem:
    """One cell. Arrays are (UEs, splits), (UEs,) or (2, UEs, subchannels), uplink first. The last split is local."""

    device_seconds: Floats  # (UEs, splits)
    device_joules: Floats  # (UEs, splits)
    up_bits: Floats  # (UEs, splits), 0: nothing is sent
    down_bits: Floats  # (UEs, splits)
    edge_work: Floats  # (UEs, splits), in the unit of edge_capacity times seconds
    constant_seconds: Floats  # (UEs, splits), delays of the links
    gains: Floats  # (2, UEs, subchannels)
    max_watts: Floats  # (2, UEs)
    subchannel_hz: tuple[float, float]
    noise_watts_per_hz: float
    edge_capacity: float
    edge_joules_per_work: float = 0.0  # times the square of a UE's share
    access: Access = "noma"
    users_per_subchannel: int = 2
    sic_residual_ratio: float = 0.0
    access_points: Integers | None = None  # (UEs,)
    leakage_ratio: float = 0.0
    #: None: each UE's own limit; else what the UEs of an access point share
    downlink_total_watts: float | None = None
    time_weight: Floats = field(default_factory=lambda: np.array(0.7))  # per second, scalar or (UEs,)
    energy_weight: Floats = field(default_factory=lambda: np.array(0.3))  # per joule, scalar or (UEs,)
    rate_floor_bits_per_second: float = 1e4
    qoe_weight: float = 0.0
    qoe_seconds: Floats | None = None  # (UEs,): the delay that a user expects

    @property
    def size(self) -> tuple[int, int, int]:
        """(UEs, splits, subchannels)."""
        return (*self.device_seconds.shape, self.gains.shape[2])


class Chosen(NamedTuple):
    """What the splits fix; (B, M), bits (B, 2, M)."""

    remote: Tensor  # 1: sends
    seconds: Tensor  # on the device and in delays
    joules: Tensor  # of the device's computing
    work: Tensor
    bits: Tensor
    blocked: Tensor  # added to a logit: keeps local UEs out of a softmax


class Point(NamedTuple):
    """What the variables mean; (B,), (B, 2, M, N), (B, 2, M) or (B, M)."""

    cost: Tensor
    on: Tensor
    watts: Tensor
    band: Tensor  # OFDMA: part of each subchannel; NOMA: as ``on``
    share: Tensor
    rates: Tensor
    seconds: Tensor
    joules: Tensor


class Relaxation:
    """The smooth, unconstrained form: softmax over subchannels, sigmoid of powers, softmax of edge shares.

    The variables of a problem are one row: logits of the subchannels (2, M, N), of the powers (2, M), of the bands
    within a subchannel (2, M; OFDMA only) and of the edge's shares (M). A UE's power is shared by its subchannels.
    """

    def __init__(self, problems: Sequence[SplitProblem], device: str = "cpu") -> None:
        first = problems[0]
        if any(problem.size != first.size or problem.access != first.access for problem in problems):
            raise ValueError("problems of one batch have the same size and access")
        self.problems, self.device = problems, torch.device(device)
        self.ues, self.splits, self.subchannels = first.size
        self.ofdma = first.access == "ofdma"
        self.sharing = first.downlink_total_watts is not None

        def stack(values: Sequence[object]) -> Tensor:
            return torch.as_tensor(np.array(values, dtype=np.float64), device=self.device)

        tables = (stack([getattr(p, key) for p in problems]) for key in TABLES)
        self.device_seconds, self.device_joules, up_bits, down_bits, self.edge_work, self.constant = tables
        self.bits = torch.stack([up_bits, down_bits], dim=1)  # (B, 2, M, S)
        self.width = stack([p.subchannel_hz for p in problems])[:, :, None, None]
        sigma = stack([p.noise_watts_per_hz for p in problems])[:, None, None, None] * self.width
        gains = stack([np.maximum(p.gains, _LEAST_GAIN) for p in problems])
        if self.ofdma:
            self.received, self.floor = gains, sigma
        else:
            # both directions as signal / (heard + floor), see controller.model.sic
            self.received = torch.stack([gains[:, UP], torch.ones_like(gains[:, UP])], dim=1)
            self.floor = torch.stack([sigma[:, UP].expand_as(gains[:, UP]), sigma[:, DOWN] / gains[:, DOWN]], dim=1)
            order = [[disturbers_first(p.gains[way], downlink=way == DOWN) for way in (UP, DOWN)] for p in problems]
            self.order = torch.as_tensor(np.array(order), device=self.device)
            self.place = self.order.argsort(dim=2)
            self.residual = stack([p.sic_residual_ratio for p in problems])[:, None, None, None, None]
        self.leakage = stack([p.leakage_ratio for p in problems])[:, None, None, None, None]
        # (B, 1, access points, M, 1): who belongs to which
        points = [np.zeros(self.ues) if p.access_points is None else p.access_points for p in problems]
        number = np.arange(1 + int(np.max(points)))[:, np.newaxis]
        self.members = stack([number == one for one in points])[:, None, :, :, None]
        self.max_watts = stack([p.max_watts for p in problems])
        total = [p.downlink_total_watts if p.downlink_total_watts is not None else np.nan for p in problems]
        self.total_watts = stack(total)[:, None]
        self.capacity = stack([p.edge_capacity for p in problems])[:, None]
        self.edge_joules = stack([p.edge_joules_per_work for p in problems])[:, None]
        self.time_weight = stack([np.broadcast_to(p.time_weight, self.ues) for p in problems])
        self.energy_weight = stack([np.broadcast_to(p.energy_weight, self.ues) for p in problems])
        self.rate_floor = stack([p.rate_floor_bits_per_second for p in problems])[:, None, None]
        self.qoe = any(p.qoe_weight for p in problems)
        if self.qoe:
            self.qoe_weight = stack([p.qoe_weight for p in problems])[:, None]
            self.qoe_seconds = stack([np.inf if p.qoe_seconds is None else p.qoe_seconds for p in problems])
        self.remote_splits = (self.bits[:, UP] > 0).to(torch.float64)
        self.variables = 2 * self.ues * self.subchannels + 5 * self.ues

    def start(self, scale: float, seed: int) -> Tensor:
        """A small random point, (problems, variables): the same for every split."""
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(len(self.problems), self.variables, generator=generator, dtype=torch.float64)
        return (scale * draw).to(self.device)

    def repeated(self, row: int, count: int) -> Relaxation:
        """One problem ``count`` times, without copies: for comparing candidates."""
        found = object.__new__(Relaxation)
        for key, value in self.__dict__.items():
            if isinstance(value, Tensor):
                value = value[row].expand(count, *value.shape[1:])
            setattr(found, key, value)
        found.problems = (self.problems[row],) * count
        return found

    def at_split(self, split: Tensor) -> Chosen:
        """What the splits (B, M) fix."""
        chosen = split[:, :, None]
        remote, seconds, joules, work = (
            table.gather(2, chosen)[..., 0]
            for table in (self.remote_splits, self.device_seconds + self.constant, self.device_joules, self.edge_work)
        )
        bits = self.bits.gather(3, chosen[:, None].expand(-1, 2, -1, -1))[..., 0]
        return Chosen(remote, seconds, joules, work, bits, (1 - remote) * _BLOCKED)

    def evaluate(self, z: Tensor, chosen: Chosen, frozen: Tensor | None = None) -> Point:
        """Everything at a point. ``frozen`` (B, 2, M, N) replaces the softmax over subchannels."""
        batch, m, n = z.shape[0], self.ues, self.subchannels
        rest = z[:, 2 * m * n :].view(batch, 5, m)
        on = torch.softmax(z[:, : 2 * m * n].view(batch, 2, m, n), dim=3) if frozen is None else frozen
        remote = chosen.remote[:, None]
        watts = self.max_watts * torch.sigmoid(rest[:, :2])
        if self.sharing:
            members = self.members[:, 0, :, :, 0]
            parts = torch.softmax((rest[:, 1] + chosen.blocked)[:, None] + (1 - members) * _ELSEWHERE, dim=2)
            watts = torch.stack([watts[:, UP], self.total_watts * (members * parts).sum(dim=1)], dim=1)
        signal = on * (watts * remote)[..., None] * self.received
        if self.ofdma:
            claim = on * (torch.exp(rest[:, 2:4]) * remote)[..., None]
            band = claim / self._of_own_station(claim).clamp(min=_TINY)
            floor = self.floor
            if self.members.shape[2] > 1:
                floor = floor + self._foreign(watts * remote, on, signal)
            rates = (self.width * band * torch.log2(1 + signal / (floor * band).clamp(min=_TINY))).sum(dim=3)
        else:
            band = on
            rates = self.width[..., 0] * torch.log2(1 + signal / (self._heard(signal) + self.floor)).sum(dim=3)
        rates = torch.maximum(rates, self.rate_floor)
        share = self.capacity * torch.softmax(rest[:, 4] + chosen.blocked, dim=1)
        air = chosen.bits / rates
        seconds = chosen.seconds + air.sum(dim=1) + chosen.work / share.clamp(min=_LEAST_SHARE)
        joules = chosen.joules + (watts * air).sum(dim=1) + self.edge_joules * share**2 * chosen.work
        each = self.time_weight * seconds + self.energy_weight * joules
        if self.qoe:
            each = each - self.qoe_weight * torch.sigmoid(10 * (1 - seconds / self.qoe_seconds))
        return Point(each.sum(dim=1), on, watts, band, share, rates, seconds, joules)

    def _of_own_station(self, values: Tensor) -> Tensor:
        """Sums over the UEs of each UE's own access point, (B, 2, M, N) or (B, 2, 1, N) for one access point."""
        if self.members.shape[2] == 1:
            return values.sum(dim=2, keepdim=True)
        sums = (values[:, :, None] * self.members).sum(dim=3, keepdim=True)
        return (sums * self.members).sum(dim=2)

    def _foreign(self, watts: Tensor, on: Tensor, received: Tensor) -> Tensor:
        """Of bands: what other access points' cells send into a whole subchannel, (B, 2, M, N)."""
        sent = torch.stack([received[:, UP], (watts[..., None] * on)[:, DOWN]], dim=1)
        leaks = self.leakage[:, :, 0] * (sent.sum(dim=2, keepdim=True) - self._of_own_station(sent))
        return torch.stack([leaks[:, UP], leaks[:, DOWN] * self.received[:, DOWN]], dim=1)

    def _heard(self, signal: Tensor) -> Tensor:
        """Interference at every UE, (B, 2, M, N): what ``interference_weights`` describes, by sums along the order."""
        members = self.members
        if members.shape[2] > 1:
            members = members.expand(-1, 2, -1, -1, self.subchannels)
            members = members.gather(3, self.order[:, :, None].expand_as(members))
        ordered = signal.gather(2, self.order)[:, :, None] * members
        until = ordered.cumsum(dim=3)
        whole = until[..., -1:, :]
        heard = until - ordered + self.residual * (whole - until)
        if members.shape[2] > 1:
            heard = heard + self.leakage * (whole.sum(dim=2, keepdim=True) - whole)
        return (heard * members).sum(dim=2).gather(2, self.place)

    def cost(self, split: Tensor, frozen: Tensor | None = None, entropy_weight: float = 0.0) -> Cost:
        """U(z) of every problem at fixed splits, plus the penalty on UEs that are spread over subchannels."""
        chosen = self.at_split(split)

        def at(z: Tensor) -> Tensor:
            found = self.evaluate(z, chosen, frozen)
            if not entropy_weight:
                return found.cost
            spread = -(found.on * torch.log(found.on.clamp(min=_TINY))).sum(dim=3) * chosen.remote[:, None]
            return found.cost + entropy_weight * spread.sum(dim=(1, 2))

        return at

    def own_costs(self, z: Tensor, split: Tensor, frozen: Tensor | None = None) -> Tensor:
        """Each UE's own part of the cost for each of its splits at the rates and shares of ``z``, (B, M, S).

        Exact for a UE that sends already; a UE that does not holds no share yet and gets inf for all but local.
        """
        chosen = self.at_split(split)
        found = self.evaluate(z, chosen, frozen)
        share, watts = found.share[..., None], found.watts[..., None]
        air = self.bits / found.rates[..., None]
        seconds = self.device_seconds + self.constant + air.sum(dim=1) + self.edge_work / share.clamp(min=_LEAST_SHARE)
        joules = self.device_joules + (watts * air).sum(dim=1) + self.edge_joules[..., None] * share**2 * self.edge_work
        each = self.time_weight[..., None] * seconds + self.energy_weight[..., None] * joules
        if self.qoe:
            late = 10 * (1 - seconds / self.qoe_seconds[..., None])
            each = each - self.qoe_weight[..., None] * torch.sigmoid(late)
        return each.masked_fill((chosen.remote[..., None] == 0) & (self.remote_splits > 0), torch.inf)
