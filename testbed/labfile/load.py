"""Reading of lab files: YAML, overrides (``--set``), checks, paths.

Every rule that is broken becomes an InputError that names the file, the key, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from controller.contract.codec import is_own
from testbed.errors import InputError
from testbed.folders import reach
from testbed.labfile.paths import resolve_paths
from testbed.labfile.schema import Topology
from testbed.labfile.schema_errors import input_error
from testbed.labfile.yaml_text import MAX_DEPTH, parse_yaml
from testbed.text_files import read_text


def load(path: Path, overrides: Sequence[str] = (), *, imports: bool = True) -> Topology:
    """Read, override (``key.sub=value``, ``ues.0.speed=0.5``) and check a lab file. Raises InputError.

    A policy ``MODULE:CLASS`` is code that may lie beside the lab file; it is not looked at without ``imports``.
    """
    try:
        exists = path.is_file()
        near = "" if exists or not path.parent.is_dir() else ", ".join(sorted(map(str, path.parent.glob("*.yaml"))))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"cannot read the lab file: {reason}", where=str(path)[:200]) from None
    if not exists:
        raise InputError("no such lab file", where=str(path), allowed=near and f"lab files here: {near}")
    raw = parse_yaml(read_text(path, "lab file"), str(path))
    if not isinstance(raw, dict):
        raise InputError(
            "a lab file is a mapping of keys", where=str(path), value=raw, allowed=", ".join(Topology.model_fields)
        )
    if imports:
        reach(path.parent)
    for override in overrides:
        _set(raw, override, imports)
    return parse(raw, str(path), path.parent, imports=imports)


def parse(raw: Mapping[str, Any], where: str, folder: Path, *, imports: bool = True) -> Topology:
    """Check a lab given as a mapping. ``folder`` is what relative paths in it start from. Raises InputError.

    Keys at the top that begin with ``x-`` are for whoever wrote the file: places to put YAML anchors.
    """
    try:
        topology = Topology.model_validate({key: value for key, value in raw.items() if not str(key).startswith("x-")})
    except ValidationError as error:
        raise input_error(error, where) from None
    resolved = resolve_paths(topology, where, folder)
    if imports or ":" not in resolved.policy.name:
        _check_policy(resolved, where)
    if imports:
        _check_codecs(resolved, where, folder)
    return resolved


def _set(raw: dict[str, Any], override: str, imports: bool) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError("--set needs key=value", where="--set", value=override, fix="Example: --set slot='1 s'.")
    target: Any = raw
    *parents, last = key.split(".")
    if len(parents) > MAX_DEPTH:
        raise InputError("--set goes too deep", where="--set", value=override[:80], allowed=f"{MAX_DEPTH} levels")
    for part in parents:
        if isinstance(target, list):
            if not part.isdigit() or int(part) >= len(target):
                raise InputError(f"no element {part!r}", where=f"--set {key}", allowed=f"0 to {len(target) - 1}")
            target = target[int(part)]
        elif isinstance(target, dict):
            if part == "policy" and isinstance(target.get(part), str):
                target[part] = {"name": target[part]}
            target = target.setdefault(part, {})
        else:
            raise InputError(f"{part!r} is inside a plain value", where=f"--set {key}", value=target)
    value = parse_yaml(text, f"--set {key}", "not a value")
    if key == "policy" and isinstance(value, str):
        value = _policy_instead_of(raw.get("policy"), value, imports)
    if isinstance(target, list):
        if not last.isdigit() or int(last) >= len(target):
            raise InputError(f"no element {last!r}", where=f"--set {key}", allowed=f"0 to {len(target) - 1}")
        target[int(last)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise InputError(f"{last!r} is inside a plain value", where=f"--set {key}", value=target)


def _policy_instead_of(policy: object, name: str, imports: bool) -> object:
    """A policy asked for by its name keeps those options of the lab's that it has, too; the lab's own keeps all."""
    if not isinstance(policy, dict) or (":" in name and not imports):
        return name
    if policy.get("name") == name:
        return policy
    from controller.policies import registry

    try:
        taken = registry.options(name)
    except ValueError:  # there is no such policy: refused with the rest of the lab
        return name
    return {"name": name, **{key: value for key, value in policy.items() if key in taken}}


def _check_policy(topology: Topology, where: str) -> None:
    from controller.policies import registry

    try:
        registry.create(topology.policy.name, topology.policy.options)
    except ValueError as error:
        raise InputError(f"key 'policy': {error}", where=where) from None


def _check_codecs(topology: Topology, where: str, folder: Path) -> None:
    """Those of users are there; they are made when a profile or a node needs them."""
    for codec in filter(is_own, topology.codec.named):
        from testbed.inference.own_codec import find_class  # imports torch

        try:
            find_class(codec, (folder,))
        except InputError as error:
            at = f"{where}: {error.where}"
            raise InputError(error.what, where=at, value=error.value, allowed=error.allowed, fix=error.fix) from None
