"""The key ``arrivals`` of a lab file: when tasks arrive, and what becomes of one that finds the device busy."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from controller.contract.scenario import OnBusy
from testbed.units import PerSecond, Ratio


class ArrivalsSpec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    process: Literal["poisson", "periodic", "switching", "file", "video"] = Field(
        default="poisson", description="periodic: with a phase from the seed; video: at the clip's frame rate"
    )
    rate: PerSecond | None = Field(default=None, description="mean, of 'poisson' and 'periodic'")
    rates: tuple[PerSecond, PerSecond] | None = Field(default=None, description="the two rates of 'switching'")
    switch: Ratio = Field(default=0.0, description="probability per slot that 'switching' changes its rate")
    file: str | None = Field(default=None, description="one arrival time in seconds per line")
    on_busy: OnBusy = Field(
        default="queue",
        description="what arrives while the device computes waits (queue), is dropped (drop), or waits until a newer "
        "one comes (latest)",
    )

    @model_validator(mode="after")
    def _fields_fit_process(self) -> ArrivalsSpec:
        needs = {"poisson": "rate", "periodic": "rate", "switching": "rates", "file": "file", "video": None}
        need = needs[self.process]
        for key in ("rate", "rates", "file"):
            given = getattr(self, key) is not None
            if key == need and not given:
                raise ValueError(f"process {self.process!r} needs the key {need!r}")
            if key != need and given:
                takes = "the rate of its clip" if need is None else f"the key {need!r}"
                raise ValueError(f"process {self.process!r} takes {takes}, not {key!r}")
        if self.process != "switching" and self.switch:
            raise ValueError("the key 'switch' belongs to process 'switching'")
        return self
