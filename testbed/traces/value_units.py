"""Units in which others keep a channel's state, and what becomes of them: a gain, bit/s, seconds or a ratio.

Two of them need a model. *Metres* become the gain of :func:`controller.model.channel.path_gain`, the macro cell of 3GPP
TR 36.814. *A reference signal's received power* (RSRP, dBm or W per resource element) becomes ``RSRP - P``, ``P`` being
what the cell sends per resource element: the UE's own estimate of its path loss in power control (3GPP TS 36.213 and
TS 38.213), without its filter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from controller.model.channel import path_gain
from testbed.traces.trace import Floats, Kind

#: Of a reference signal per resource element: the 46 dBm of TR 36.814's macro cell over the 1200 subcarriers of 20 MHz.
REFERENCE_DBM = 46.0 - 10.0 * math.log10(1200)
#: Above these a value has another unit than it should.
LARGEST: dict[Kind, float] = {"gain": 1.0, "rate": 1e13, "delay": 3600.0, "loss": 1.0}


def _decibels(values: Floats, _reference_dbm: float) -> Floats:
    known = values[np.isfinite(values)]
    if np.any(known > 0) and np.any(known < 0):
        raise ValueError(f"decibels of both signs, from {known.min():g} to {known.max():g}: neither gains nor losses")
    return np.asarray(10.0 ** (-np.abs(values) / 10.0))


def _reference_power(values: Floats, reference_dbm: float) -> Floats:
    return np.asarray(10.0 ** ((values - reference_dbm) / 10.0))


def _reference_watts(values: Floats, reference_dbm: float) -> Floats:
    return np.asarray(values / (10.0 ** (reference_dbm / 10.0) * 1e-3))


def _metres(values: Floats, _reference_dbm: float) -> Floats:
    with np.errstate(divide="ignore"):
        # the law has no near field: a metre is as near as it goes
        return np.asarray(np.where(np.isnan(values), np.nan, path_gain(np.maximum(values, 1.0))))


def _times(factor: float) -> Callable[[Floats, float], Floats]:
    return lambda values, _reference_dbm: np.asarray(values * factor)


@dataclass(frozen=True)
class ValueUnit:
    """``to_si``: (values, dBm of a reference signal) to values of a trace of ``kind``, nan where they are missing."""

    kind: Kind
    to_si: Callable[[Floats, float], Floats]
    says: str = ""
    may_be_negative: bool = False


_POWER = "a reference signal's power to gain: RSRP - {reference_dbm:.4g} dBm per resource element (TS 36.213)"
UNITS: dict[str, ValueUnit] = {
    "bit/s": ValueUnit("rate", _times(1.0)),
    "kbit/s": ValueUnit("rate", _times(1e3)),
    "Mbit/s": ValueUnit("rate", _times(1e6)),
    "Gbit/s": ValueUnit("rate", _times(1e9)),
    "B/s": ValueUnit("rate", _times(8.0)),
    "kB/s": ValueUnit("rate", _times(8e3)),
    "MB/s": ValueUnit("rate", _times(8e6)),
    "dB": ValueUnit("gain", _decibels, "dB to gain: 10^(-|dB|/10), be it a gain below 0 or a path loss above", True),
    "dBm": ValueUnit("gain", _reference_power, _POWER, True),
    "W": ValueUnit("gain", _reference_watts, _POWER),
    "m": ValueUnit("gain", _metres, "distance to gain: a loss of 128.1 + 37.6 log10(km) dB (3GPP TR 36.814)"),
    "km": ValueUnit(
        "gain",
        lambda values, reference_dbm: _metres(values * 1e3, reference_dbm),
        "distance to gain: a loss of 128.1 + 37.6 log10(km) dB (3GPP TR 36.814)",
    ),
    "linear": ValueUnit("gain", _times(1.0)),
    "s": ValueUnit("delay", _times(1.0)),
    "ms": ValueUnit("delay", _times(1e-3)),
    "%": ValueUnit("loss", _times(1e-2)),
}
#: As people write them in the names of columns; megabits for Mbps, as nearly everybody who names a column so.
_SPELLINGS = {
    **{name.lower(): name for name in UNITS if name not in ("kB/s", "MB/s", "B/s")},
    **{"bps": "bit/s", "bits/s": "bit/s", "kbps": "kbit/s", "kbits/s": "kbit/s", "mbps": "Mbit/s"},
    **{"mbits/s": "Mbit/s", "mb/s": "Mbit/s", "kb/s": "kbit/s", "gbps": "Gbit/s", "bytes/s": "B/s"},
    **{"meter": "m", "meters": "m", "metres": "m", "sec": "s", "seconds": "s", "percent": "%"},
}
#: What is measured under such a name, whoever measures it; looked for anywhere in the name.
_BY_NAME = {"rsrp": "dBm", "pathloss": "dB", "path_loss": "dB", "path_gain": "dB", "pathgain": "dB"}
_BY_NAME |= {"distance": "m", "ping": "ms", "rtt": "ms", "latency": "ms"}
_SUFFIX = re.compile(r"[\s_(\[]([A-Za-z%][A-Za-z/%]*)[)\]]?$")


def spelled(text: str) -> str | None:
    """The unit that somebody wrote so; None: none."""
    return text if text in UNITS else {"KB/s": "kB/s"}.get(text, _SPELLINGS.get(text.lower()))


def unit_of_name(column: str) -> str | None:
    """The unit that a column's name ends with (``rate (kbps)``, ``delay_ms``); None: with none."""
    match = _SUFFIX.search(column.strip())
    return None if match is None else spelled(match.group(1))


def usual_unit(column: str) -> str | None:
    """The unit in which everybody keeps what such a column holds; None: there is none."""
    return next((unit for mark, unit in _BY_NAME.items() if mark in column.lower()), None)
