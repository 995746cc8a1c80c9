"""Campaign -> points: one run or simulation each, told apart by lab, place and the values of what varies."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from testbed.campaign.schema import MAX_POINTS, POLICY, CampaignSpec, label_of
from testbed.errors import InputError

Where = Literal["lab", "simulator"]


@dataclass(frozen=True)
class Campaign:
    """A campaign file that has been read."""

    spec: CampaignSpec
    where: str  # the file's name, for errors
    folder: Path  # what lab files are relative to


@dataclass(frozen=True)
class Point:
    """One run or simulation."""

    where: Where
    lab: str  # as the campaign spells it
    file: Path
    settings: Mapping[str, str]  # by key that varies: the value's label
    overrides: tuple[str, ...]  # of the lab file, as --set takes them

    @property
    def title(self) -> str:
        return ", ".join([self.where, self.lab, *(f"{key}={label}" for key, label in self.settings.items())])

    def without(self, *keys: str) -> tuple[tuple[str, str], ...]:
        """What the point has in common with others that differ in these keys only, ``where`` and ``lab`` included."""
        own = {"where": self.where, "lab": self.lab, **self.settings}
        return tuple((key, value) for key, value in own.items() if key not in keys)


def points_of(campaign: Campaign) -> tuple[Point, ...]:
    """All points, those of one value after those of the one before. Raises InputError for more than MAX_POINTS."""
    spec = campaign.spec
    places: tuple[Where, ...] = ("simulator", "lab") if spec.where == "both" else (spec.where,)
    number = len(places) * len(spec.lab)
    for key, values in spec.vary.items():
        number *= len(values) if key not in spec.zip[1:] else 1
    if number > MAX_POINTS:
        raise InputError(
            "the campaign has too many points", where=campaign.where, value=number, allowed=str(MAX_POINTS)
        )
    return tuple(
        Point(
            where=place,
            lab=lab,
            file=campaign.folder / lab,
            settings={key: label_of(value) for key, value in chosen.items()},
            overrides=overrides_of(spec.set, chosen),
        )
        for place in places
        for lab in spec.lab
        for chosen in _combinations(spec)
    )


def _combinations(spec: CampaignSpec) -> Iterator[dict[str, Any]]:
    """The values of the varied keys, in the order of the file; those of ``zip`` go together."""
    axes: list[list[dict[str, Any]]] = []
    for key, values in spec.vary.items():
        if key not in spec.zip:
            axes.append([{key: value} for value in values])
        elif key == next(name for name in spec.vary if name in spec.zip):
            together = [name for name in spec.vary if name in spec.zip]
            rows = zip(*(spec.vary[name] for name in together), strict=True)
            axes.append([dict(zip(together, row, strict=True)) for row in rows])
    for parts in itertools.product(*axes):
        yield {key: value for part in parts for key, value in part.items()}


def overrides_of(*settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings as ``--set`` takes them, the later ones last, but policies before everything: others are about them."""
    pairs = [(key, value) for setting in settings for key, value in setting.items()]
    found: list[str] = []
    for key, value in sorted(pairs, key=lambda pair: pair[0] != POLICY):
        if key == POLICY and isinstance(value, dict) and "name" in value:  # options that it does not name stay
            found.append(f"{POLICY}={json.dumps(value['name'])}")
            found += [f"{POLICY}.{name}={json.dumps(part)}" for name, part in value.items() if name != "name"]
        else:
            found.append(f"{key}={json.dumps(value, ensure_ascii=False)}")
    return tuple(found)
