"""What all types of the contract are: frozen, strict; and the names that they share."""

from __future__ import annotations

from typing import NewType

import msgspec

UeName = NewType("UeName", str)
#: A name of :mod:`controller.contract.codec`.
Codec = str


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all contract types: frozen, strict."""
