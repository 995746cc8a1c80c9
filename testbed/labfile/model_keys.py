"""The key ``model`` of a lab file: a name, or a name and where its weights come from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from testbed.inference.weight_files import RANDOM


class ModelSpec(BaseModel):
    """A model; ``model: NAME`` is short for one with random weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="torchvision:NAME, or package.module:factory beside the lab file")
    weights: str = Field(
        default=RANDOM,
        description="random (drawn from the seed), default (what torchvision or timm publish), or a file beside the "
        "lab file: safetensors, or a state dict",
    )


def _by_name(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _as_written(spec: ModelSpec) -> Any:
    return spec.name if spec.weights == RANDOM else {"name": spec.name, "weights": spec.weights}


ModelKey = Annotated[
    ModelSpec, BeforeValidator(_by_name, json_schema_input_type=str | ModelSpec), PlainSerializer(_as_written)
]
