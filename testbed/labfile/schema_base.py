"""What every part of the lab file's schema is made of: names, strict models, and the word ``off``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
)

#: No dots (they separate lab and node in names on the system), short enough for a socket path.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
WholeName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,29}[a-z0-9])?$")]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def bare_off(value: object) -> object:
    """YAML 1.1 reads a bare ``off`` as false."""
    return "off" if value is False else value


Wanted = Annotated[Literal["auto", "required", "off"], BeforeValidator(bare_off)]
