"""Decentralised DNN surgery, after Yang et al. (arXiv 2306.12185): UEs that cut their models and buy the edge's speed.

Every UE knows its own model and rate only. The edge publishes prices and, to each UE, the sum of what the others take;
a UE answers with its best response: a cut of its graph and a demand. They take turns until nobody moves. The price
rises until what is asked for fits (:mod:`controller.solvers.dag.game`). The body of the paper was not available to us:
the price is [CHOICE] linear in the load, with clearing.

The same object decides both ways: it asks the UEs' agents when the testbed has given it the means to
(:meth:`Dds.ask_through`), and :class:`DdsLocal` objects of its own otherwise. The rounds are the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import numpy as np

from controller.contract import (
    ALL_ON_DEVICE,
    AskUe,
    Cut,
    Decision,
    Observation,
    Scenario,
    UeDecision,
    UeName,
    UeObservation,
)
from controller.model.radio import LinkRates, rates, sharers_of
from controller.policies.base import BasicPolicy
from controller.policies.dag import DagUe
from controller.seeds import Purpose, generator
from controller.solvers.dag import game
from controller.solvers.dag.game import Market, PriceForm, Settlement, Signal, settle

_FORMS: tuple[PriceForm, ...] = ("linear", "barrier", "proportional")

#: Asking over sockets ends after this part of a slot; a decision is late after half of one.
_ASKING_RATIO = 0.4
#: Of the edge, that may stay free where a price fills it, and of the price: where turns end is an equilibrium at any.
_CLEARED_RATIO = 2e-3
#: Random orders that ``order: best`` plays.
_ORDERS = 5
#: Of a part: less than this below a whole one is rounding.
_WHOLE = 1e-9


class DdsLocal:
    """The part of DDS that runs in a UE: its own best response. It sees no other UE, only their sum."""

    def __init__(self, value: float = 1.0) -> None:
        self._value = value

    def reset(self, scenario: Scenario) -> None:
        """``scenario.ues`` holds this UE alone."""
        self._scenario = scenario
        self._ue = DagUe(scenario, 0)
        self._rate_of: tuple[object, LinkRates] | None = None
        # what compiles, or is read from disk, at its first use: a slot's questions do not wait for it
        self._ue.device(LinkRates(1e6, 1e6), scenario.edge.cpus, self._value)

    def respond(self, signal: dict[str, float], own_state: UeObservation) -> UeDecision:
        """``signal`` holds the numbers of a :class:`game.Signal`, ``form`` as its index, and the UE's spectrum."""
        ue = self._scenario.ues[0]
        asked = Signal(
            signal["base"],
            signal["slope"],
            signal["others"],
            signal["capacity"],
            signal["limit"],
            _FORMS[int(signal["form"])],
        )
        at_rate = self._rate(own_state, signal["spectrum_up_hz"], signal["spectrum_down_hz"])
        device = self._ue.device(at_rate, asked.capacity, self._value * ue.weight)
        response = game.best_response(device, asked)
        return UeDecision(
            name=ue.name,
            cut=ALL_ON_DEVICE if response.line is None else response.line.cut,
            device_speed=ue.max_speed,
            spectrum_up_hz=signal["spectrum_up_hz"],
            spectrum_down_hz=signal["spectrum_down_hz"],
            edge_share=response.demand,
            valuation=response.cost - game.bill(asked, response.demand),
        )

    def _rate(self, own: UeObservation, up_hz: float, down_hz: float) -> LinkRates:
        key = (own.gain_up, own.gain_down, up_hz, down_hz)
        if self._rate_of is None or self._rate_of[0] != key:
            name = self._scenario.ues[0].name
            choice = UeDecision(name, ALL_ON_DEVICE, 1.0, up_hz, down_hz, 0.0)
            gains = {str(name): (own.gain_up, own.gain_down)}
            self._rate_of = (key, rates(self._scenario, gains, Decision(0, 0, 0.0, (choice,)))[name])
        return self._rate_of[1]


class Dds(BasicPolicy):
    """The market. Equal parts of the spectrum, full speed; cut and part of the edge as each UE asks for.

    Options
    -------
    base : the least price of a reference core, in the unit of ``value``.
    slope : what the price rises per core that is taken; None: ten times the base over the edge's capacity.
    value : what a second of latency costs a UE of weight 1.
    form : "linear" with clearing, "barrier" (``base / (1 - load)``) or "proportional" (bids; each gets its part).
    order : of the turns: "given", "random", or "best": of the equilibria that five random orders lead to, the one with
        the least potential (linear form only).
    steps : equal parts of the edge, of which a UE gets whole ones: 64 where shares are containers'; 0: any share.
    """

    _clipped = False

    def __init__(
        self,
        base: float = 0.002,
        slope: float | None = None,
        value: float = 1.0,
        form: PriceForm = "linear",
        order: str = "given",
        steps: int = 0,
    ) -> None:
        if form not in _FORMS:
            raise ValueError(f"form must be one of {', '.join(_FORMS)}, got {form!r}")
        if order not in ("given", "random", "best"):
            raise ValueError(f"order must be given, random or best, got {order!r}")
        if order == "best" and (form != "linear" or self._clipped):
            raise ValueError("order: best compares potentials, which only form: linear has")
        if steps < 0:
            raise ValueError(f"steps must be 0 (any share) or the number of parts of the edge, got {steps!r}")
        if not (base > 0 and value > 0 and (slope is None or slope >= 0)):
            raise ValueError(
                f"base and value must be above 0 and slope not below: base {base!r}, value {value!r}, slope {slope!r}"
            )
        self._base, self._slope, self._value, self._form, self._order = base, slope, value, form, order
        self._steps = steps
        self._ask: AskUe | None = None

    def local_policy(self) -> DdsLocal:
        """What runs in each UE."""
        return DdsLocal(self._value)

    def ask_through(self, ask: AskUe | None) -> None:
        """Ask the UEs themselves from now on; None: local policies in this process."""
        self._ask = ask

    def reset(self, scenario: Scenario, seed: int) -> None:
        super().reset(scenario, seed)
        capacity = scenario.edge.cpus
        slope = 10 * self._base / capacity if self._slope is None else self._slope
        self._market = Market(capacity, self._base, slope, self._form, self._clipped, cleared=_CLEARED_RATIO)
        self._locals: dict[UeName, DdsLocal] | None = None
        self._guess: float | None = None
        # where each market begins; other orders are there for what they lead to from nothing
        warm = self._form == "linear" and not self._clipped and self._order == "given"
        self._start = [0.0] * len(scenario.ues) if warm else None
        self._numbers: dict[str, float] = {}
        if self._ask is None:
            self._ask_locals()

    def decide(self, observation: Observation) -> Decision:
        """One market. A UE that does not answer computes on its device."""
        started = time.monotonic()
        turns, *more = self._orders(observation.slot)
        table = _Answers(self.scenario, observation, self._ask or self._ask_locals())
        end = started + _ASKING_RATIO * self.scenario.slot_seconds
        may_go_on = (lambda: True) if self._ask is None else (lambda: time.monotonic() < end)
        found = settle(
            self._market, len(turns), table.ask, turns, self._guess, may_go_on, more_orders=more, worth=table.worth,
            start=self._start,
        )  # fmt: skip
        if self._form == "linear" and not self._clipped:
            self._guess = found.base
        if self._start is not None:
            self._start = list(found.demands)
        shares = self._shares(found)
        plan = [
            table.choice(index, demand) if share > 0 else ALL_ON_DEVICE
            for index, (demand, share) in enumerate(zip(found.demands, shares, strict=True))
        ]
        self._numbers = self._describe(found, shares)
        if self._ask is not None:
            self._numbers["settle_seconds"] = time.monotonic() - started
        decision = self.with_cuts(observation, plan)
        return msgspec.structs.replace(
            decision,
            ues=tuple(
                msgspec.structs.replace(ue, edge_share=share if ue.cut else 0.0)
                for ue, share in zip(decision.ues, shares, strict=True)
            ),
        )

    def _orders(self, slot: int) -> list[list[int]]:
        """Turns to play by."""
        given = list(range(len(self.scenario.ues)))
        if self._order == "given":
            return [given]
        rng = generator(self.seed, Purpose.POLICY, slot)
        return [rng.permutation(given).tolist() for _ in range(_ORDERS if self._order == "best" else 1)]

    def _shares(self, found: Settlement) -> list[float]:
        """Demands, scaled down where a market that was cut short asks for more than there is."""
        capacity, total = self._market.capacity, found.total
        shares = list(found.demands)
        if total > 0 and (total > capacity or self._form == "proportional"):
            shares = [demand * capacity / total for demand in shares]
        return in_steps(shares, capacity, self._steps) if self._steps else shares

    def _describe(self, found: Settlement, shares: Sequence[float]) -> dict[str, float]:
        numbers = {
            "price": found.base + self._market.slope * found.total if self._form == "linear" else found.base,
            "base_price": found.base,
            "demand_ratio": sum(shares) / self._market.capacity,
            "sweeps": float(found.sweeps),
            "messages": 2.0 * found.asked,
            "unanswered": float(len(found.gone)),
            "settled": float(found.converged),
        }
        for ue, share in zip(self.scenario.ues, shares, strict=True):
            numbers[f"demand.{ue.name}"] = share
        return numbers

    def _ask_locals(self) -> AskUe:
        """Local policies of our own, made when first asked."""
        if self._locals is None:
            self._locals = {}
            for ue in self.scenario.ues:
                self._locals[ue.name] = self.local_policy()
                self._locals[ue.name].reset(msgspec.structs.replace(self.scenario, ues=(ue,)))
        own = self._locals
        return lambda ue, signal, state: own[ue].respond(signal, state)

    def state(self) -> dict[str, float]:
        return dict(self._numbers)


def in_steps(shares: Sequence[float], capacity: float, steps: int) -> list[float]:
    """Shares in whole parts of the capacity, by largest remainder: no more of them than ``shares`` have together."""
    parts = np.array(shares) * steps / capacity
    whole = np.floor(parts + _WHOLE)
    left = int(np.floor(parts.sum() + _WHOLE) - whole.sum())
    whole[np.argsort(whole - parts, kind="stable")[:left]] += 1
    return [float(capacity * part / steps) for part in whole]


class _Answers:
    """Asks UEs in one slot, and remembers what cut came with which demand."""

    def __init__(self, scenario: Scenario, observation: Observation, ask_ue: AskUe) -> None:
        self._ask_ue = ask_ue
        self._observation = observation
        radio = scenario.radio
        self._fixed = [
            {"spectrum_up_hz": radio.uplink_hz / among, "spectrum_down_hz": radio.downlink_hz / among}
            for among in sharers_of(scenario).tolist()
        ]
        self._cuts: list[dict[float, Cut]] = [{} for _ in scenario.ues]
        self._latest: list[Cut] = [ALL_ON_DEVICE for _ in scenario.ues]
        self._worth = [0.0 for _ in scenario.ues]

    def ask(self, device: int, signal: Signal) -> float | None:
        numbers = {
            "base": signal.base,
            "slope": signal.slope,
            "others": signal.others,
            "capacity": signal.capacity,
            "limit": signal.limit,
            "form": float(_FORMS.index(signal.form)),
            **self._fixed[device],
        }
        state = self._observation.ues[device]
        answer = self._ask_ue(state.name, numbers, state)
        if answer is None:
            return None
        self._cuts[device][answer.edge_share] = self._latest[device] = answer.cut
        self._worth[device] = answer.valuation or 0.0
        return answer.edge_share

    def worth(self, device: int) -> float:
        """What the latency of a UE's last answer costs it, as it says."""
        return self._worth[device]

    def choice(self, device: int, demand: float) -> Cut:
        """The cut that came with a demand; damped demands lie between two, and take the last one's."""
        if demand <= 0:
            return ALL_ON_DEVICE
        return self._cuts[device].get(demand, self._latest[device])


class FirstCome(Dds):
    """DDS without clearing: the price stays, and nobody gets more than what those before have left."""

    _clipped = True
