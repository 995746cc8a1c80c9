"""YAML as people mean it: ``1e-3`` is a number, a key stands once, and nothing nests or repeats without end.

YAML 1.1, which PyYAML reads, takes ``1e-3`` for text, ``010`` for eight and ``1:30`` for ninety, and lets the last of
two equal keys win. Here numbers are decimal (or 0x...), and everything else that looks like one is text.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from testbed.errors import InputError

MAX_DEPTH = 64
#: With every alias written out.
MAX_VALUES = 200_000

_TAG = "tag:yaml.org,2002:"
_BOOL = r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"
_INT = r"[-+]?(?:0|[1-9][0-9_]{0,30})|0x[0-9a-fA-F]{1,16}"
_FLOAT = r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+)"
_NOT_FINITE = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"


class _Loader(yaml.SafeLoader):
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in (
    ("bool", _BOOL, "yYnNtTfFoO"),
    ("int", _INT, "-+0123456789"),
    ("float", f"{_FLOAT}|{_NOT_FINITE}", "-+0123456789."),
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first))


def _plain(loader: _Loader, node: yaml.Node) -> Any:
    """A scalar; one whose tag is written out has to be what the tag says."""
    assert isinstance(node, yaml.ScalarNode)
    if loader.resolve(yaml.ScalarNode, node.value, (True, False)) != node.tag:  # type: ignore[no-untyped-call]
        raise yaml.constructor.ConstructorError(None, None, f"{node.value!r} is no {node.tag}", node.start_mark)
    value = yaml.SafeLoader.yaml_constructors[node.tag](loader, node)
    if isinstance(value, float) and not math.isfinite(value):
        raise yaml.constructor.ConstructorError(None, None, f"{node.value!r} is not a finite number", node.start_mark)
    return value


_Loader.yaml_constructors = {
    None: yaml.SafeLoader.yaml_constructors[None],  # of an unknown tag: refuses it
    **{_TAG + name: _plain for name in ("bool", "int", "float", "null")},
    **{_TAG + name: yaml.SafeLoader.yaml_constructors[_TAG + name] for name in ("str", "seq", "map")},
}


def parse_yaml(text: str, where: str, what: str = "not valid YAML") -> Any:
    """One document. Raises InputError that names ``where`` and, of a key that stands twice, both lines."""
    try:
        loader = _Loader(text)  # control characters are refused here
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node, where, "", {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise InputError(f"{what}: {' '.join(str(error).split())}", where=where) from None


def _check(node: yaml.Node, where: str, key: str, sizes: dict[int, int]) -> int:
    """How many values a node has, aliases written out. Raises InputError."""
    known = sizes.get(id(node))
    if known == 0:
        raise InputError(f"the value of {key!r} contains itself", where=f"{where}, line {_line(node)}")
    if known is not None:
        return known
    sizes[id(node)] = 0
    size = 1
    if isinstance(node, yaml.MappingNode):
        first: dict[tuple[str, str], yaml.Node] = {}
        for name, value in node.value:
            inner = f"{key}.{name.value}" if key else str(name.value)
            if isinstance(name, yaml.ScalarNode):
                before = first.setdefault((name.tag, name.value), name)
                if before is not name and name.tag != f"{_TAG}merge":
                    raise InputError(
                        f"the key {inner!r} stands twice",
                        where=where,
                        value=f"lines {_line(before)} and {_line(name)}",
                        allowed="each key once",
                        fix="Remove one of them.",
                    )
            size += _check(name, where, inner, sizes) + _check(value, where, inner, sizes)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_check(value, where, f"{key}.{index}", sizes) for index, value in enumerate(node.value))
    if size > MAX_VALUES:
        raise InputError(f"more than {MAX_VALUES} values, aliases written out", where=where)
    sizes[id(node)] = size
    return size


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
