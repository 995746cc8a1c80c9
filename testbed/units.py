"""Quantities with their unit in the value: ``5 ms``, ``8 MHz``, ``-165 dBm/Hz``. SI floats inside.

One explicit table per dimension; what is ambiguous (``mbps`` is megabits to most people, megabytes to ``tc``) is not in
it and is refused with the list of what is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_NUMBER = re.compile(r"^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*$")


def _dbm(value: float) -> float:
    return math.pow(10.0, value / 10.0) * 1e-3


@dataclass(frozen=True)
class Dimension:
    """A kind of quantity: its units (factor or function to SI), and the unit in which it is printed."""

    name: str
    units: Mapping[str, float | Callable[[float], float]]
    printed: tuple[str, ...]  # linear units, large to small: the first in which the value is >= 1 is used
    largest: float  # SI, either sign: beyond it a unit is wrong, or sums and powers of it are no numbers any more

    def parse(self, raw: object) -> float:
        """SI value of ``raw``. Raises ValueError with what is allowed."""
        if isinstance(raw, bool):
            raise ValueError(f"{raw!r} is not a {self.name}; {self._allowed()}")
        if isinstance(raw, int | float):
            if raw == 0:
                return 0.0
            raise ValueError(f"{raw!r} has no unit; a {self.name} needs one: {self._allowed()}")
        if not isinstance(raw, str):
            raise ValueError(f"{raw!r} is not a {self.name}; {self._allowed()}")
        match = _NUMBER.match(raw)
        if match is None:
            raise ValueError(f"{raw!r} is not a {self.name}; {self._allowed()}")
        number, unit = float(match.group(1)), match.group(2)
        if unit == "":
            if number == 0:
                return 0.0
            raise ValueError(f"{raw!r} has no unit; a {self.name} needs one: {self._allowed()}")
        if unit not in self.units:
            raise ValueError(f"{raw!r} has an unknown unit {unit!r} for a {self.name}; {self._allowed()}")
        scale = self.units[unit]
        try:
            value = scale(number) if callable(scale) else number * scale
        except OverflowError:
            value = math.inf
        return self._checked(value, raw)

    def format(self, value: float) -> str:
        """``value`` (SI) with a unit; parses back to the same float for the shipped units."""
        for unit in self.printed:
            factor = self.units[unit]
            assert not callable(factor)
            if abs(value) >= factor or unit == self.printed[-1]:
                return f"{value / factor:.12g} {unit}"
        return f"{value:.12g}"

    def _allowed(self) -> str:
        example = next(iter(self.units))
        return f"units: {', '.join(self.units)} (for example '1 {example}')"

    def _checked(self, value: float, raw: object) -> float:
        if not math.isfinite(value):
            raise ValueError(f"{raw!r} is not a finite {self.name}")
        if abs(value) > self.largest:
            raise ValueError(f"{raw!r} is too large a {self.name}: at most {self.format(self.largest)}")
        return value


DURATION = Dimension("duration", {"s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0, "h": 3600.0}, ("s", "ms", "us"), 1e8)
BIT_RATE = Dimension(
    "bit rate",
    {"Mbit/s": 1e6, "kbit/s": 1e3, "bit/s": 1.0, "Gbit/s": 1e9},
    ("Gbit/s", "Mbit/s", "kbit/s", "bit/s"),
    1e13,
)
FREQUENCY = Dimension("frequency", {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9}, ("GHz", "MHz", "kHz", "Hz"), 1e13)
POWER = Dimension("power", {"W": 1.0, "mW": 1e-3, "dBm": _dbm}, ("W", "mW"), 1e6)
NOISE_DENSITY = Dimension("noise density", {"dBm/Hz": _dbm, "W/Hz": 1.0}, ("W/Hz",), 1.0)
ENERGY = Dimension("energy", {"J": 1.0, "mJ": 1e-3}, ("J", "mJ"), 1e9)
LENGTH = Dimension("length", {"m": 1.0, "km": 1e3}, ("km", "m"), 1e7)
EVENT_RATE = Dimension("event rate", {"/s": 1.0, "/min": 1 / 60.0}, ("/s",), 1e6)
DECIBEL = Dimension("level", {"dB": 1.0}, ("dB",), 300.0)
RATIO = Dimension("ratio", {"%": 1e-2}, ("%",), 1e6)
SIZE = Dimension(
    "size",
    {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3},
    ("GB", "MB", "kB", "B"),
    1e15,
)


def _quantity(
    dimension: Dimension, *, positive: bool = False, minimum: float | None = 0.0, top: float = math.inf
) -> Any:
    def validate(raw: object) -> float:
        value = dimension.parse(raw)
        if positive and value <= 0:
            raise ValueError(f"{raw!r} must be above 0")
        if minimum is not None and value < minimum:
            raise ValueError(f"{raw!r} must be at least {minimum:g}")
        if value > top:
            raise ValueError(f"{raw!r} must be at most {dimension.format(top)}")
        return value

    return (
        BeforeValidator(validate),
        PlainSerializer(dimension.format, return_type=str),
        WithJsonSchema(
            {
                "anyOf": [{"type": "string"}, {"const": 0}],
                "description": f"a {dimension.name}, units: {', '.join(dimension.units)}",
                "examples": [f"1 {unit}" for unit in dimension.units],  # a key's own description hides this one
            }
        ),
    )


Seconds = Annotated[float, *_quantity(DURATION)]
PositiveSeconds = Annotated[float, *_quantity(DURATION, positive=True)]
BitsPerSecond = Annotated[float, *_quantity(BIT_RATE, positive=True)]
Hertz = Annotated[float, *_quantity(FREQUENCY, positive=True)]
Watts = Annotated[float, *_quantity(POWER)]
PositiveWatts = Annotated[float, *_quantity(POWER, positive=True)]
WattsPerHertz = Annotated[float, *_quantity(NOISE_DENSITY, positive=True)]
Joules = Annotated[float, *_quantity(ENERGY, positive=True)]
Metres = Annotated[float, *_quantity(LENGTH, positive=True)]
PerSecond = Annotated[float, *_quantity(EVENT_RATE, positive=True)]
Decibels = Annotated[float, *_quantity(DECIBEL)]
Ratio = Annotated[float, *_quantity(RATIO, top=1.0)]
Bytes = Annotated[float, *_quantity(SIZE)]
