"""The key of a point: a digest of the content of everything that determines what comes of it.

Names of files do not count, their content does: a lab that moves keeps its points, a trace that changes loses them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

import controller
import testbed
from testbed.folders import reach
from testbed.inference.profiles import profile_cache_path
from testbed.inference.weight_files import sha256_of
from testbed.labfile.schema import Topology

#: Libraries that compute what is measured.
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "numba", "cvxpy")
#: Folders of testbed/ that only order, show or summarise.
WITHOUT_EFFECT = ("campaign", "cli", "front", "monitoring")
_DIGITS = 20


def key_of(topology: Topology, folder: Path, order: Mapping[str, Any]) -> str:
    """``folder``: the lab file's. ``order``: what is done with the lab: place, length, training."""
    content = {
        "lab": _with_content(topology.normalised()),
        "measured_profiles": _measured_profiles(topology),
        "user_code": _user_code(topology, folder),
        "order": dict(order),
        "versions": versions(),
    }
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:_DIGITS]


@cache
def versions() -> dict[str, str]:
    """Of the interpreter, the libraries and, by content, our own code."""
    found = {"python": platform.python_version(), "code": code_digest()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


@cache
def code_digest() -> str:
    """Of the modules that have a part in a run."""
    digest = hashlib.sha256()
    for package in (controller, testbed):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            if package is controller or path.relative_to(root).parts[0] not in WITHOUT_EFFECT:
                digest.update(f"{root.name}/{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _with_content(value: Any) -> Any:
    """Files and folders that a lab names (their paths are absolute by now) by what is in them."""
    if isinstance(value, dict):
        return {key: _with_content(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_with_content(part) for part in value]
    path = Path(value) if isinstance(value, str) and value.startswith("/") else None
    if path is not None and path.is_file():
        return {"sha256": _file_digest(str(path)), "suffix": path.suffix}
    if path is not None and path.is_dir():
        files = (file for file in sorted(path.rglob("*")) if file.is_file())
        return {str(file.relative_to(path)): _file_digest(str(file)) for file in files}
    return value


@cache
def _file_digest(path: str) -> str:
    return sha256_of(Path(path))


def _measured_profiles(topology: Topology) -> dict[str, str | None]:
    """Of models whose profile the lab does not name: this host's own; None until it is measured."""
    models = {ue.model for ue in topology.expand() if ue.profile is None}
    paths = {model: profile_cache_path(model) for model in models}
    return {model: _file_digest(str(path)) if path.is_file() else None for model, path in paths.items()}


def _user_code(topology: Topology, folder: Path) -> dict[str, str]:
    """Code beside the lab file, if the lab names any, and the modules that it names elsewhere."""
    named = (topology.policy.name, *(ue.model for ue in topology.expand()))
    names = {name.partition(":")[0] for name in named if ":" in name}
    names.discard("torchvision")
    if not names:
        return {}
    reach(folder)
    found = {str(path.relative_to(folder)): _file_digest(str(path)) for path in _beside(folder)}
    for name in sorted(names):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin and Path(spec.origin).is_file():
            found[name] = _file_digest(spec.origin)
    return found


def _beside(folder: Path) -> Iterator[Path]:
    """Modules and packages of a folder: what a module may import is not known without running it."""
    yield from sorted(folder.glob("*.py"))
    for package in sorted(folder.glob("*/__init__.py")):
        yield from sorted(package.parent.rglob("*.py"))
