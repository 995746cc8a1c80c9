"""The key ``input`` of a lab file: what tasks are about."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from testbed.inputs.source import SOURCES, Source
from testbed.labfile.arrival_keys import ArrivalsSpec

RANDOM_INPUT = "random"


class InputSpec(BaseModel):
    """One source of inputs. None of it: random images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: str | None = Field(default=None, description="a folder of images, in an order drawn from the seed")
    video: str | None = Field(default=None, description="a clip, frame by frame, over and over")
    array: str | None = Field(default=None, description="a .npy of uint8, (inputs, C, H, W)")
    labels: str | None = Field(default=None, description="of the inputs: .csv, .npy, or .json (COCO)")
    size: tuple[Annotated[int, Field(ge=1, le=8192)], Annotated[int, Field(ge=1, le=8192)]] | None = Field(
        default=None, description="[height, width] of the camera, to which images and frames are brought beforehand"
    )

    @model_validator(mode="after")
    def _one_source(self) -> InputSpec:
        given = [kind for kind in SOURCES if getattr(self, kind) is not None]
        if len(given) != 1:
            what = f"{' and '.join(repr(kind) for kind in given)}" if given else "none"
            raise ValueError(f"an input is one of {', '.join(SOURCES)} and {RANDOM_INPUT}; there is {what}")
        if self.size is not None and self.array is not None:
            raise ValueError("'size' is that of a camera: an array has its own")
        return self

    @property
    def source(self) -> Source:
        """The same with what it is; paths as they are here."""
        kind, path = next((kind, path) for kind in SOURCES if (path := getattr(self, kind)) is not None)
        return Source(kind, path, self.labels or "", self.size)


def check_inputs(arrivals: ArrivalsSpec, inputs: InputSpec | None, ue: str, *, uploading: bool) -> None:
    """Raises ValueError where arrivals, inputs and the rest of a lab do not fit."""
    if arrivals.process == "video" and (inputs is None or inputs.video is None):
        raise ValueError(f"the arrivals of {ue!r} are a video's frames: give it one with input: {{video: CLIP}}")
    if uploading and arrivals.on_busy != "queue":
        raise ValueError(f"'uploading' takes every task of {ue!r} in its turn: set its on_busy to queue")


def _named(value: object) -> object:
    """``random`` and ``{random}`` are no input at all."""
    return None if value == RANDOM_INPUT or value in ({RANDOM_INPUT: None}, {RANDOM_INPUT: True}) else value


InputKey = Annotated[
    InputSpec | None,
    BeforeValidator(_named, json_schema_input_type=InputSpec | Literal["random"] | None),
]
