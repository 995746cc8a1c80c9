"""The campaign file: which labs, what varies, how long, which figures. Frozen pydantic models, strict keys."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from testbed.campaign.measures import MEASURES
from testbed.labfile.schema_base import Model, WholeName
from testbed.units import PositiveSeconds

MAX_POINTS = 100_000
#: What tells the lines of a figure and the rows of a comparison apart.
POLICY = "policy"
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def label_of(value: object) -> str:
    """How a value is called in tables and figures; a policy with options: ``lymdo (V=1)``."""
    if isinstance(value, dict) and "name" in value:
        options = ", ".join(f"{key}={label_of(part)}" for key, part in value.items() if key != "name")
        return f"{value['name']} ({options})" if options else str(value["name"])
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {label_of(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(label_of, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _values(value: object) -> object:
    """``1..10``, a list, or one value."""
    found = _RANGE.fullmatch(value.replace(" ", "")) if isinstance(value, str) else None
    if found:
        low, high = int(found[1]), int(found[2])
        if not 0 <= high - low < MAX_POINTS:
            raise ValueError(f"the range {value!r} has no value, or more than {MAX_POINTS}")
        return tuple(range(low, high + 1))
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Values = Annotated[tuple[Any, ...], BeforeValidator(_values)]


def _train(value: object) -> object:
    return {} if value == "each value" else value


class TrainSpec(Model):
    """Learning policies are trained on the lab of each value, in the simulator, before they are measured there."""

    learner: Literal["imitation", "ppo"] | None = Field(default=None, description="as in `testbed train`")
    updates: int | None = Field(default=None, ge=1, description="none: the learner's default")
    seed: int = Field(default=1, ge=0, lt=2**31, description="of the training")


class FigureSpec(Model):
    kind: Literal["lines", "cdf"]
    of: str = Field(default="mean_delay_seconds", description="what is drawn, kind 'lines'")
    over: str | None = Field(default=None, description="the key on the x axis, kind 'lines'; none: the only one")

    @model_validator(mode="after")
    def _fits_kind(self) -> FigureSpec:
        if self.of not in MEASURES:
            raise ValueError(f"there is no measure {self.of!r}; allowed: {', '.join(MEASURES)}")
        if self.kind == "cdf" and self.model_fields_set & {"of", "over"}:
            raise ValueError("a figure of kind 'cdf' is of the E2E delay: drop 'of' and 'over'")
        return self


def _figure(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


class CampaignSpec(Model):
    name: WholeName
    lab: Annotated[tuple[str, ...], BeforeValidator(_values)] = Field(
        min_length=1, description="a lab file, or several"
    )
    where: Literal["lab", "simulator", "both"] = "simulator"
    vary: dict[str, Values] = Field(description="key as in --set: its values, or a range (1..10)")
    zip: tuple[str, ...] = Field(default=(), description="keys whose values go together, first with first; else all")
    set: dict[str, Any] = Field(default={}, description="keys of the lab that are the same for all points")
    pair: str = Field(default="seed", description="the key over whose values runs are repeated and compared in pairs")
    baseline: str | None = Field(default=None, description="the policy that others are compared with; none: the first")
    train: Annotated[TrainSpec | None, BeforeValidator(_train)] = Field(
        default=None, description="'each value': learning policies are trained for every point's lab"
    )
    slots: int | None = Field(default=None, ge=1, description="for how long tasks arrive; or 'duration'")
    duration: PositiveSeconds | None = None
    retries: int = Field(default=2, ge=0, le=20, description="of a lab's run that is invalid")
    runtime: Literal["auto", "docker", "netns"] = Field(default="auto", description="of labs")
    figures: tuple[Annotated[FigureSpec, BeforeValidator(_figure)], ...] = ()

    @field_validator("vary")
    @classmethod
    def _told_apart(cls, vary: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in vary.items():
            labels = [label_of(value) for value in values]
            if not labels:
                raise ValueError(f"{key!r} has no value")
            if twice := {label for label in labels if labels.count(label) > 1}:
                raise ValueError(f"{key!r} has the value {min(twice)!r} twice")
        return vary

    @model_validator(mode="after")
    def _fits_together(self) -> CampaignSpec:
        if (self.slots is None) == (self.duration is None):
            raise ValueError("give either 'slots' or 'duration', one of the two")
        if both := [key for key in self.vary if key in self.set]:
            raise ValueError(f"the key {both[0]!r} is in 'vary' and in 'set'")
        if len(set(self.lab)) < len(self.lab):
            raise ValueError("a lab is there twice")
        known = f"'vary' has: {', '.join(self.vary) or 'nothing'}"
        if missing := [key for key in self.zip if key not in self.vary]:
            raise ValueError(f"'zip' names {missing[0]!r}, which does not vary; {known}")
        if len({len(self.vary[key]) for key in self.zip}) > 1 or len(self.zip) == 1:
            raise ValueError("'zip' takes two keys or more, with as many values each")
        if self.pair != "seed" and self.pair not in self.vary:
            raise ValueError(f"'pair' names {self.pair!r}, which does not vary; {known}")
        policies = [label_of(value) for value in self.vary.get(POLICY, ())]
        if self.baseline is not None and self.baseline not in policies:
            raise ValueError(f"the baseline {self.baseline!r} is none of the policies: {', '.join(policies) or 'none'}")
        for figure in self.figures:
            if figure.kind == "lines":
                self.over(figure)
        return self

    def over(self, figure: FigureSpec) -> str:
        """The key on the x axis of a figure of lines. Raises ValueError if there is none, or it could be several."""
        could = [key for key in self.vary if key not in (POLICY, self.pair) and key not in self.zip[1:]]
        if figure.over is not None:
            if figure.over not in self.vary or figure.over == self.pair:
                raise ValueError(
                    f"a figure is over {figure.over!r}, but what varies is: {', '.join(could) or 'nothing'}"
                )
            return figure.over
        if len(could) != 1:
            raise ValueError(
                f"a figure of lines needs 'over', one of: {', '.join(could or [POLICY])}"
                if could or POLICY in self.vary
                else "a figure of lines needs a key that varies"
            )
        return could[0]
