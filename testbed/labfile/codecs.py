"""The key ``codec`` of a lab file: by what tensors travel."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from controller.contract import Codec
from controller.contract.codec import BOUNDARY_CODECS, INPUT_CODECS, is_boundary_codec, is_input_codec


def _jpeg(value: object) -> object:
    """``{jpeg: 90}`` by its name."""
    return f"jpeg-{value['jpeg']}" if isinstance(value, dict) and list(value) == ["jpeg"] else value


def _input(value: str) -> str:
    if not is_input_codec(value):
        raise ValueError(f"{value!r} is no codec of the input; allowed: {INPUT_CODECS}")
    return value


def _boundary(value: str) -> str:
    if not is_boundary_codec(value):
        raise ValueError(f"{value!r} is no codec of a boundary; allowed: {BOUNDARY_CODECS}")
    return value


_JPEG_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"jpeg": {"type": "integer", "minimum": 1, "maximum": 100}},
    "required": ["jpeg"],
    "additionalProperties": False,
}
InputCodec = Annotated[
    str,
    BeforeValidator(_jpeg),
    AfterValidator(_input),
    WithJsonSchema({"anyOf": [{"type": "string", "description": INPUT_CODECS}, _JPEG_SCHEMA]}),
]
BoundaryCodec = Annotated[
    str, AfterValidator(_boundary), WithJsonSchema({"type": "string", "description": BOUNDARY_CODECS})
]


class CodecSpec(BaseModel):
    """How tensors travel: the raw input as an application sends it, boundaries as chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: InputCodec = Field(default="uint8", description="uint8, png, {jpeg: QUALITY}, or MODULE:CLASS")
    boundary: BoundaryCodec = Field(
        default="fp32",
        description="fp32, fp16, uint8, int4, the last two -per-channel, each +zstd or +lz4; or MODULE:CLASS",
    )
    choices: tuple[BoundaryCodec, ...] = Field(
        default=(), description="that a policy may decide for a boundary, beside 'boundary'"
    )

    @property
    def for_boundaries(self) -> tuple[Codec, ...]:
        """The lab's own first, then what a policy may decide."""
        return tuple(dict.fromkeys((self.boundary, *self.choices)))

    @property
    def named(self) -> tuple[Codec, ...]:
        """All that tensors of the lab may travel by."""
        return (self.input, *self.for_boundaries)
