"""The range of labs that an actor is trained over: what is drawn, and whether a lab lies inside."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
import numpy as np

from controller.contract import Scenario
from controller.model.queueing import PERIODIC_VARIABILITY
from controller.model.radio import sharers_of
from controller.solvers.allocation.chain import ChainTables, SlotState
from controller.solvers.allocation.problem import FloatArray, Limits, UeConstants

Ranges = dict[str, tuple[float, float]]

#: What a lab of the range has, its number of UEs and then by UE; spectrum and edge are those of an equal share. V and
#: the energy budget are in no range: the actor sees virtual queues only as the price of energy over that of delay.
LAB_RANGE: Ranges = {
    "number of UEs": (2, 30),
    "uplink spectrum per UE, MHz": (0.15, 4.0),
    "edge per UE, cpus": (0.05, 1.0),
    "speed, cores": (0.15, 1.5),
    "arrival rate, 1/s": (0.3, 6.0),
    "compute power, W": (0.3, 6.0),
    "transmit power, W": (0.05, 1.0),
    "signal to noise at an equal share, dB": (0.0, 40.0),
}
#: Of the channel's state around its mean, dB.
_FADING_DB = 8.0
#: Joules over delay: virtual queues are drawn so that a full-speed task's energy costs this many of its device delays.
_ENERGY_PRICE = (0.03, 30.0)
_WITHOUT_QUEUES = 0.05  # part of the labs' slots


def values_of(scenario: Scenario) -> dict[str, FloatArray]:
    """The lab's values under the names of :data:`LAB_RANGE`, one or one per UE."""
    ues, count = scenario.ues, len(scenario.ues)
    hz = scenario.radio.uplink_hz / sharers_of(scenario)
    noise = scenario.radio.noise_watts_per_hz * hz
    # a trace of rates has a spectral efficiency in place of a gain
    snr = [
        np.expm1(min(ue.mean_gain / scenario.radio.uplink_hz, 60.0) * np.log(2.0)) if ue.channel_kind == "rate"
        else ue.mean_gain * ue.transmit_watts / at_receiver for ue, at_receiver in zip(ues, noise.tolist(), strict=True)
    ]  # fmt: skip
    return {
        "number of UEs": np.array([float(count)]),
        "uplink spectrum per UE, MHz": hz / 1e6,
        "edge per UE, cpus": np.array([scenario.edge.cpus / count]),
        "speed, cores": np.array([ue.max_speed for ue in ues]),
        "arrival rate, 1/s": np.array([rate for ue in ues for rate in ue.arrivals.rates_per_second]),
        "compute power, W": np.array([ue.compute_watts for ue in ues]),
        "transmit power, W": np.array([ue.transmit_watts for ue in ues]),
        "signal to noise at an equal share, dB": 10.0 * np.log10(np.maximum(snr, 1e-12)),
    }


def ranges_of(scenario: Scenario) -> Ranges:
    """The range that is this lab alone."""
    return {name: (float(x.min()), float(x.max())) for name, x in values_of(scenario).items()}


def outside(ranges: Ranges, scenario: Scenario) -> list[str]:
    """What of a lab lies outside of the ranges, in words; values are compared with 1 % to spare."""
    found = []
    for name, values in values_of(scenario).items():
        low, high = ranges[name]
        slack = 0.01 * max(abs(low), abs(high))
        beyond = values[(values < low - slack) | (values > high + slack)]
        if beyond.size:
            worst = beyond[np.argmax(np.maximum(low - beyond, beyond - high))]
            found.append(f"{name} {worst:.3g} (trained on {low:.3g} to {high:.3g})")
    return found


@dataclass(frozen=True)
class DrawnLab:
    """A lab of the range and some of its slots; arrays of the state are (slots, ues)."""

    tables: ChainTables
    limits: Limits
    state: SlotState


def draw_lab(base: ChainTables, rng: np.random.Generator, slots: int) -> DrawnLab:
    """A lab with the model, the slot and the noise of ``base``, everything else from :data:`LAB_RANGE`.

    A lab has a centre in each range; its UEs scatter around it. Virtual queues are drawn, not run.
    """
    low, high = LAB_RANGE["number of UEs"]
    n = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))
    hz = n * 1e6 * _log_uniform(rng, "uplink spectrum per UE, MHz")
    cpus = n * _log_uniform(rng, "edge per UE, cpus")
    speed, rate, compute, transmit = (
        _scattered(rng, name, n)
        for name in ("speed, cores", "arrival rate, 1/s", "compute power, W", "transmit power, W")
    )
    low, high = LAB_RANGE["signal to noise at an equal share, dB"]
    mean_db = np.clip(rng.uniform(low, high) + rng.uniform(-1, 1) * rng.uniform(-10, 10, n), low, high)
    quality = 10 ** ((mean_db + _FADING_DB * rng.standard_normal((slots, n))) / 10) * hz / n
    # the rate of a slot is one of two, as switching arrivals have
    ratio = rng.uniform(1, 3)
    rates = np.clip(rate * np.where(rng.random((slots, n)) < 0.5, 1.0, ratio), *LAB_RANGE["arrival rate, 1/s"])
    scenario = base.scenario
    ue = scenario.ues[0]
    mean_rate = float(np.mean(rates))
    arrivals = msgspec.structs.replace(ue.arrivals, process="poisson", rates_per_second=(mean_rate,))
    scenario = msgspec.structs.replace(
        scenario,
        radio=msgspec.structs.replace(scenario.radio, uplink_hz=hz, downlink_hz=hz),
        edge=msgspec.structs.replace(scenario.edge, cpus=cpus),
        ues=(msgspec.structs.replace(ue, arrivals=arrivals),) * n,
    )
    first = np.zeros(n, dtype=np.int64)
    tables = replace(
        base, scenario=scenario, cuts=(base.cuts[0],) * n, budget_joules=np.ones(n),
        **{name: getattr(base, name)[first] for name in (
            "head_seconds", "wire_bits", "tail_seconds", "constant_seconds", "down_bits", "counts", "local")},
        ues=UeConstants._make(x[first] for x in base.ues)._replace(
            max_speed=speed, kappa=compute / speed**3, transmit_watts=transmit,
            variability=np.full(n, rng.choice([1.0, 1.0, 1.0, PERIODIC_VARIABILITY])))
    )  # fmt: skip
    v = 1.0
    # joules of a task at full speed over its seconds there are the compute power
    price = v * np.exp(rng.uniform(*np.log(_ENERGY_PRICE)) + rng.normal(0, 0.7, (slots, n)))
    queue = np.where(rng.random((slots, 1)) < _WITHOUT_QUEUES, 0.0, price) / (
        compute * scenario.slot_seconds * np.maximum(rates, 1e-3)
    )
    downlink = hz * np.log2(1 + np.maximum(quality, 1e-3) * 3 / hz)
    return DrawnLab(tables, tables.limits(v), SlotState(rates, quality, downlink, queue))


def _log_uniform(rng: np.random.Generator, name: str) -> float:
    return float(np.exp(rng.uniform(*np.log(LAB_RANGE[name]))))


def _scattered(rng: np.random.Generator, name: str, count: int) -> FloatArray:
    """Around a centre by up to a factor of 2, alike in a third of the labs."""
    spread = rng.choice([0.0, 0.35, 0.7])
    drawn = _log_uniform(rng, name) * np.exp(rng.uniform(-spread, spread, count))
    return np.clip(drawn, *LAB_RANGE[name])
