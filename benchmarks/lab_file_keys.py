"""The tables of keys in docs/lab-file.md, as testbed/labfile/schema.py declares them.

``python -m benchmarks.pages`` writes them.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, PlainSerializer, TypeAdapter
from pydantic.fields import FieldInfo

from benchmarks.contract_tables import first_sentence
from testbed.labfile.schema import Topology, UeSpec
from testbed.units import Dimension


def keys() -> str:
    """Every key of a lab file, and of an entry of ``ues``: default, what it may be, meaning."""
    return "\n".join([*_table(Topology, leave="ues"), "", "Each entry of `ues`:", "", *_table(UeSpec)])


def _table(model: type[BaseModel], leave: str = "") -> Iterator[str]:
    yield from ("| key | default | value | meaning |", "|---|---|---|---|")
    yield from (f"| {' | '.join(row)} |" for row in _rows(model, "", leave))


def _rows(model: type[BaseModel], before: str, leave: str = "") -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        if name == leave:
            continue
        meaning = field.description or ""
        inner = _models(field.annotation)
        if not inner:
            yield f"`{before}{name}`", _default(field), _value(field), _cell(meaning)
            continue
        group = inner[0]
        optional = types.NoneType in _parts(field.annotation)
        about = " ".join(text for text in (first_sentence(group), meaning) if text)
        yield f"`{before}{name}`", "required" if field.is_required() else "none" if optional else "", "", _cell(about)
        yield from _rows(group, f"{before}{name}.")


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _models(annotation: Any) -> list[type[BaseModel]]:
    parts = [_bare(part) for part in _parts(_bare(annotation))]
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return str(TypeAdapter(kind).dump_python(field.default, mode="json"))


def _value(field: FieldInfo) -> str:
    """Words, units or a kind of number, with the least and the most."""
    kinds = [part for part in _parts(field.annotation) if part is not types.NoneType]
    bounds = {
        word: getattr(one, name)
        for one in field.metadata
        for name, word in (("gt", "above"), ("ge", "from"), ("lt", "below"), ("le", "to"))
        if hasattr(one, name)
    }
    dimension = next((found for one in (*field.metadata, *kinds) if (found := _dimension(one))), None)
    text = dimension or " or ".join(_words(kind) for kind in kinds)
    return _cell(" ".join([text, *(f"{word} {bound}" for word, bound in bounds.items())]))


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(str(word) for word in get_args(kind))
    if get_origin(kind) is Annotated:
        return _words(get_args(kind)[0])
    if get_origin(kind) is tuple:
        return f"[{', '.join(_words(part) for part in get_args(kind))}]"
    return {str: "text", int: "whole number", float: "number"}.get(kind, str(kind))


def _dimension(one: Any) -> str | None:
    """The units of a quantity, which its serialiser knows; of two in a list, as well."""
    if isinstance(one, PlainSerializer):
        owner = getattr(one.func, "__self__", None)
        return ", ".join(owner.units) if isinstance(owner, Dimension) else None
    inner = next((found for part in get_args(one) if (found := _dimension(part))), None)
    return f"[{inner}; {inner}]" if inner and get_origin(one) is tuple else inner or _of_metadata(one)


def _of_metadata(one: Any) -> str | None:
    return next((found for part in getattr(one, "__metadata__", ()) if (found := _dimension(part))), None)


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|").strip()
