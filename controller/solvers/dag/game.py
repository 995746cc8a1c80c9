"""A market for the edge: devices buy the speed that is best for each of them. After DDS, sections 3 to 6.

Device i pays ``value_i * latency_i(f_i) + bill(f_i, S_-i)`` for the demand f_i, where S_-i is what the others take.
:func:`best_response` is exact: the latency is a lower envelope of lines (:mod:`controller.solvers.dag.envelope`), and
on each the cost is convex. With the linear price ``base + slope * S`` the game has an exact potential
(:func:`potential`), so best responses taken in turn converge.

:func:`settle` runs the market for *any* way to ask a device: a function call in a simulator, a message in a lab. Both
therefore reach the same equilibrium. When the capacity binds it raises the base price until what is asked for fits
[CHOICE: clipping each demand at what is left makes the outcome depend on who came first].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import msgspec

from controller.solvers.dag.envelope import Line

PriceForm = Literal["linear", "barrier", "proportional"]

#: Of the capacity: demands that move by less are settled.
TOLERANCE = 1e-6
MAX_SWEEPS = 200
#: Clearing ends when the demand is below the capacity by at most this part of it, or when the price is known to this
#: part (a device's demand may jump at a price: then no price fills the edge).
CLEARED_RATIO = 1e-5
#: From a price that was guessed the search goes this part of it at first, and four times as far each time.
_FIRST_STEP_RATIO = 0.02
_CLEARING_STEPS = 80
_NEWTON_STEPS = 100


class Signal(msgspec.Struct, frozen=True):
    """What the edge publishes to one device: prices, and of the others nothing but the sum."""

    base: float  # price per unit of demand
    slope: float  # its rise per unit of everybody's demand
    others: float  # sum of the others' demands (of their bids, for the proportional form)
    capacity: float
    limit: float  # the most that this device may ask for
    form: PriceForm = "linear"


class Device(NamedTuple):
    """What a device knows of itself. ``lines`` without the local cut: that is ``local_seconds``."""

    lines: tuple[Line, ...]
    local_seconds: float
    value_per_second: float = 1.0  # what a second of latency costs it, in units of money

    @classmethod
    def of(cls, lines: Sequence[Line], local_seconds: float, value_per_second: float = 1.0) -> Device:
        """From an envelope that may hold the local cut."""
        return cls(tuple(line for line in lines if line.work_seconds > 0), local_seconds, value_per_second)

    def latency(self, demand: float) -> float:
        """The best latency at a demand; the local one is always possible."""
        if demand <= 0:
            return self.local_seconds
        return min(self.local_seconds, min((line.seconds(demand) for line in self.lines), default=math.inf))


class Response(NamedTuple):
    demand: float  # 0: everything on the device
    line: Line | None  # None: everything on the device
    cost: float  # value of the latency, and bill


# --------------------------------------------------------------------------------------------------- best response


def bill(signal: Signal, demand: float) -> float:
    """What a demand (a bid, for the proportional form) costs."""
    if demand <= 0:
        return 0.0
    if signal.form == "linear":
        return (signal.base + signal.slope * (signal.others + demand)) * demand
    if signal.form == "barrier":
        left = 1.0 - (signal.others + demand) / signal.capacity
        return signal.base * demand / left if left > 0 else math.inf
    return signal.base * demand


def granted(signal: Signal, demand: float) -> float:
    """The speed that a demand gives: itself, or its part of the capacity for the proportional form."""
    if signal.form != "proportional" or demand <= 0:
        return demand
    return signal.capacity * demand / (demand + signal.others)


def best_response(device: Device, signal: Signal) -> Response:
    """The demand with the least cost. Of equal costs the local cut, then the smaller demand.

    Exact up to the rounding of one root per line.
    """
    value = device.value_per_second
    best = Response(0.0, None, value * device.local_seconds)
    for line in device.lines:
        if signal.form == "proportional":  # work / (capacity d / (d + others)) = work / capacity + work others / (..)
            constant = line.constant_seconds + line.work_seconds / signal.capacity
            work = line.work_seconds * signal.others / signal.capacity
        else:
            constant, work = line.constant_seconds, line.work_seconds
        demand = _minimiser(value * work, signal)
        if not demand > 0:
            continue
        cost = value * (constant + work / demand) + bill(signal, demand)
        if cost < best.cost:
            best = Response(demand, line, cost)
    return best


def _minimiser(weighted_work: float, signal: Signal) -> float:
    """Where ``weighted_work / d + bill(d)`` is least on (0, limit]; 0 if nothing may be asked for."""
    limit = signal.limit
    if signal.form == "barrier":
        # d(bill)/dd = base F (F - s) / (F - s - d)^2 equals w / d^2 at d = (F - s) / (1 + sqrt(base F (F - s) / w))
        left = signal.capacity - signal.others
        if left <= 0 or weighted_work <= 0:
            return 0.0
        return min(limit, left / (1.0 + math.sqrt(signal.base * signal.capacity * left / weighted_work)))
    if signal.form == "proportional":
        # A lone bidder gets everything for the least bid; there is no least one above 0.
        return min(limit, max(math.sqrt(weighted_work / signal.base), _LEAST_BID * signal.capacity))
    flat = signal.base + signal.slope * signal.others
    cubic = 2.0 * signal.slope
    if limit <= 0 or weighted_work <= 0:
        return 0.0
    if -weighted_work + (flat + cubic * limit) * limit * limit <= 0:
        return limit
    # cubic d^3 + flat d^2 = weighted_work: both terms alone give an upper bound, from which Newton falls to the root
    demand = limit
    if flat > 0:
        demand = min(demand, math.sqrt(weighted_work / flat))
    if cubic > 0:
        demand = min(demand, (weighted_work / cubic) ** (1.0 / 3.0))
    for _ in range(_NEWTON_STEPS):
        over = (cubic * demand + flat) * demand * demand - weighted_work
        step = over / ((3.0 * cubic * demand + 2.0 * flat) * demand)
        demand -= step
        if step <= 1e-16 * demand:
            break
    return demand


_LEAST_BID = 1e-6


def potential(devices: Sequence[Device], demands: Sequence[float], base: float, slope: float) -> float:
    """Changes by as much as the cost of the device that changes its demand (linear price).

    ``sum_i [value_i T_i(f_i) + base f_i + slope f_i^2] + slope sum_{i<j} f_i f_j``
    """
    own = sum(device.value_per_second * device.latency(demand) for device, demand in zip(devices, demands, strict=True))
    return own + _congestion(demands, base, slope)


def _congestion(demands: Sequence[float], base: float, slope: float) -> float:
    """The potential without what the latencies are worth to the devices."""
    total = sum(demands)
    squares = sum(demand * demand for demand in demands)
    return base * total + slope * squares + slope * (total * total - squares) / 2.0


# ------------------------------------------------------------------------------------------------------- the market


class Ask(Protocol):
    """Ask one device for its demand at a signal; None if it is gone."""

    def __call__(self, device: int, signal: Signal) -> float | None: ...


@dataclass(frozen=True)
class Market:
    """What the edge charges, and how it lets the devices move."""

    capacity: float
    base: float
    slope: float
    form: PriceForm = "linear"
    clipped: bool = False  # first come, first served: nobody gets more than what is left, and the price stays
    tolerance: float = TOLERANCE
    max_sweeps: int = MAX_SWEEPS
    cleared: float = CLEARED_RATIO


@dataclass
class Settlement:
    """An equilibrium, or the last state if it did not converge."""

    demands: list[float]
    base: float  # the price that cleared the market
    sweeps: int = 0  # of the last price
    all_sweeps: int = 0  # of all prices that were tried
    asked: int = 0  # questions to devices
    converged: bool = True
    gone: set[int] = field(default_factory=set)

    @property
    def total(self) -> float:
        return sum(self.demands)


def settle(
    market: Market,
    count: int,
    ask: Ask,
    order: Sequence[int] | None = None,
    guess: float | None = None,
    may_go_on: Callable[[], bool] = lambda: True,
    more_orders: Sequence[Sequence[int]] = (),
    worth: Callable[[int], float] = lambda device: 0.0,
    start: Sequence[float] | None = None,
) -> Settlement:
    """Let ``count`` devices take turns in ``order`` until nobody moves, and raise the price until it fits.

    ``guess`` is a base price to begin the search with, such as the last one: it saves questions where little has
    changed, and moves the outcome by no more than the tolerances. A device that does not answer takes nothing, and
    is not asked again. When ``may_go_on`` says no, what holds then is returned as not converged.

    ``start``: demands that the turns begin with, such as the last ones. Those at every further price then begin with
    the demands of the price before, and only at the last price they are taken until nobody moves: it saves more
    questions. Without, turns begin from nothing at every price.

    At one price there may be several equilibria, and the order decides which is found. With ``more_orders`` each of
    them is played too, at every price, and the one with the least potential counts (linear price). ``worth`` then says
    what the latency that came with a device's last answer costs it.
    """
    result = Settlement([0.0] * count if start is None else list(start), market.base)
    orders = [tuple(range(count)) if order is None else tuple(order), *map(tuple, more_orders)]

    searching = market.max_sweeps if start is None else 1

    def at(base: float, sweeps: int = market.max_sweeps) -> float:
        result.base = base
        best: tuple[float, list[float], int] | None = None
        for turns in orders:
            already_gone = len(result.gone)
            _play(market, result, turns, ask, may_go_on, sweeps, afresh=start is None)
            if not result.converged:
                break
            present = (device for device in range(count) if device not in result.gone)
            height = sum(map(worth, present)) + _congestion(result.demands, base, market.slope)
            if best is None or len(result.gone) > already_gone or height < best[0]:
                best = height, list(result.demands), result.sweeps
        if best is not None and result.converged:
            _, result.demands, result.sweeps = best
        return result.total

    capacity = market.capacity
    if market.form != "linear" or market.clipped:
        at(market.base)
        return result
    fits, cleared, offset = capacity * (1 + 1e-12), capacity * (1 - market.cleared), market.slope * capacity
    step = 0.05
    low, low_total = market.base, math.inf
    high = market.base if guess is None else max(guess, market.base)
    high_total = at(high, searching)
    if high > market.base and (high_total < 0.5 * capacity or not result.converged):
        high, high_total = market.base, at(market.base, searching)
    elif high > market.base:
        step = _FIRST_STEP_RATIO
    kept = _kept(result)
    while high_total < cleared and high > market.base and low_total == math.inf and may_go_on():
        # f ~ sqrt(work / price), so that the price that fills the edge is about (S / F)^2 as high
        marginal = (high + offset) * max((high_total / capacity) ** 2, 1 - step)
        price = max(market.base, min(marginal, (high + offset) * (1 - 0.1 * step)) - offset)
        step = min(4 * step, 0.9)
        total = at(price, searching)
        if total > fits:
            low, low_total = price, total
        else:
            high, high_total, kept = price, total, _kept(result)
    while high_total > fits and may_go_on():
        low, low_total = high, high_total
        marginal = (high + offset) * max(high_total / capacity, 1 + step) ** 2
        step = min(4 * step, 0.05)
        high = max(marginal - offset, high + 0.05 * step * marginal)
        high_total = at(high, searching)
        kept = _kept(result)
    if high == market.base and start is None:
        result.demands, result.base, result.sweeps = list(kept[0]), kept[1], kept[2]
        return result
    steps, halve = 0, False
    while steps < _CLEARING_STEPS and may_go_on():
        if high_total >= cleared or high - low <= market.cleared * (high + offset):
            break
        steps += 1
        width = high - low
        middle = 0.5 * (low + high)
        if not halve:
            middle = _next_price(low, low_total, high, high_total, 0.5 * (cleared + capacity), offset)
        total = at(middle, searching)
        if total > fits:
            low, low_total = middle, total
        else:
            high, high_total = middle, total
            kept = _kept(result)
        halve = high - low > 0.5 * width
    if start is not None:  # prices were tried in passing: now all take turns until nobody moves
        step = 0.5 * market.cleared
        while at(high) > fits and may_go_on():
            high += step * (high + offset)
            step *= 2
        kept = _kept(result)
    result.demands, result.base, result.sweeps = list(kept[0]), kept[1], kept[2]
    result.converged = result.converged and steps < _CLEARING_STEPS and may_go_on()
    return result


def _kept(result: Settlement) -> tuple[list[float], float, int]:
    return list(result.demands), result.base, result.sweeps


def _next_price(low: float, low_total: float, high: float, high_total: float, aim: float, offset: float) -> float:
    """Between two prices, by the power law through what was asked for at both; the middle where that is no help."""
    middle = 0.5 * (low + high)
    if not math.isfinite(low_total) or not 0 < high_total < low_total or low + offset <= 0:
        return middle
    ratio = math.log(low_total / aim) / math.log(low_total / high_total)
    price = (low + offset) ** (1 - ratio) * (high + offset) ** ratio - offset
    return price if low < price < high else middle


def _play(
    market: Market, result: Settlement, turns: Sequence[int], ask: Ask, may_go_on: Callable[[], bool], sweeps: int, *,
    afresh: bool,
) -> None:  # fmt: skip
    """Best responses in turn at one price, from nothing or from the present demands, until nobody moves by more than
    the tolerance, in at most so many sweeps."""
    demands = result.demands
    if afresh:
        demands[:] = [0.0] * len(demands)
    result.sweeps = 0
    damping = 1.0 if market.form == "linear" else 0.5  # without a potential undamped responses may circle
    if market.form == "proportional":
        demands[:] = [market.capacity / len(demands)] * len(demands)
    for _ in range(sweeps):
        moved = 0.0
        result.sweeps += 1
        result.all_sweeps += 1
        for device in turns:
            if device in result.gone:
                continue
            if not may_go_on():
                result.converged = False
                return
            others = sum(demands) - demands[device]
            if market.clipped:
                limit = max(0.0, market.capacity - others)
            else:
                limit = math.inf if market.form == "proportional" else market.capacity
            signal = Signal(result.base, market.slope, others, market.capacity, limit, market.form)
            result.asked += 1
            answer = ask(device, signal)
            if answer is None:
                result.gone.add(device)
            # All on the device is no smaller demand but another choice: there is no way halfway to it.
            new = (1 - damping) * demands[device] + damping * answer if answer else 0.0
            moved = max(moved, abs(new - demands[device]))
            demands[device] = new
        if moved < market.tolerance * market.capacity:
            result.converged = True
            return
    result.converged = sweeps < market.max_sweeps
