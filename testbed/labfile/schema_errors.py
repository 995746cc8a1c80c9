"""A broken rule of the schema in words: the key, its value, what is allowed, and the key that may be meant."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from testbed.errors import InputError
from testbed.labfile.schema import Topology


def input_error(
    error: ValidationError, where: str, schema: type[BaseModel] = Topology, page: str = "docs/lab-file.md"
) -> InputError:
    """The first broken rule (unknown keys first: they explain the rest), as one paragraph; ``page`` describes keys."""
    details = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    first = details[0]
    key = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-")) or "(whole file)"
    value: object = first["input"]
    more = f" ({len(details) - 1} more after this one)" if len(details) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _keys_at(schema, first["loc"][:-1])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        fix = f"Did you mean {close[0]!r}?" if close else "Remove it or correct its name."
        return InputError(f"unknown key '{key}'{more}", where=where, value=value, allowed=", ".join(known), fix=fix)
    if first["type"] == "missing":
        return InputError(f"the key '{key}' is missing{more}", where=where, fix=f"Add it; see {page}.")
    text = first["msg"].removeprefix("Value error, ")
    shown = None if isinstance(value, dict | list) else value
    return InputError(f"key '{key}': {text}{more}", where=where, value=shown, fix=f"See {page}.")


def _keys_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    fields = schema
    for part in location:
        if isinstance(part, int) or part not in fields.model_fields:
            continue
        for candidate in _models_in(fields.model_fields[str(part)].annotation):
            fields = candidate
            break
    return list(fields.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[type[BaseModel]] = []
    for argument in getattr(annotation, "__args__", ()):
        found.extend(_models_in(argument))
    return found
