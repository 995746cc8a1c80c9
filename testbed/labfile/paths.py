"""Paths in a lab file are relative to it; missing files are found now, not when the lab is half up."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.errors import InputError
from testbed.inference.weight_files import DEFAULT, RANDOM
from testbed.labfile.input_keys import InputSpec
from testbed.labfile.model_keys import ModelSpec
from testbed.labfile.schema import PolicySpec, Topology, UeSpec

#: Names of files that an error lists.
_LISTED = 20


def resolve_paths(topology: Topology, where: str, folder: Path) -> Topology:
    """The lab with absolute paths. Raises InputError for a file that is not there, or cannot be read."""
    paths = _Paths(where, folder)
    policy = topology.policy
    checkpoint = policy.options.get("checkpoint")
    if isinstance(checkpoint, str):
        found = paths.of(checkpoint, "policy.checkpoint", "checkpoint")
        policy = PolicySpec.model_validate({"name": policy.name, **policy.options, "checkpoint": found})
    ues = tuple(_of_ue(ue, f"ues.{index}", paths) for index, ue in enumerate(topology.ues))
    return topology.model_copy(update={"ues": ues, "policy": policy, **_of_both(topology, "", paths)})


def _of_ue(ue: UeSpec, key: str, paths: _Paths) -> UeSpec:
    groups: dict[str, tuple[tuple[str, str], ...]] = {
        "channel": (("trace", "trace file"), ("trace_down", "trace file")),
        "link": (("delay_trace", "trace file"), ("loss_trace", "trace file")),
        "arrivals": (("file", "arrivals file"),),
    }
    changed: dict[str, Any] = {}
    for group, files in groups.items():
        spec = getattr(ue, group)
        found = {name: paths.of(getattr(spec, name), f"{key}.{group}.{name}", what) for name, what in files}
        changed[group] = spec.model_copy(update=found)
    return ue.model_copy(update={**changed, **_of_both(ue, f"{key}.", paths)})


def _of_both(spec: Topology | UeSpec, prefix: str, paths: _Paths) -> dict[str, Any]:
    """Keys that the lab and a UE have."""
    return {
        "profile": paths.of(spec.profile, f"{prefix}profile", "profile"),
        "device": paths.of(spec.device, f"{prefix}device", "device's profile"),
        "model": _of_model(spec.model, f"{prefix}model", paths),
        "input": _of_input(spec.input, f"{prefix}input", paths),
    }


def _of_model(spec: ModelSpec | None, key: str, paths: _Paths) -> ModelSpec | None:
    if spec is None or spec.weights in (RANDOM, DEFAULT):
        return spec
    return spec.model_copy(update={"weights": paths.of(spec.weights, f"{key}.weights", "file of weights")})


def _of_input(spec: InputSpec | None, key: str, paths: _Paths) -> InputSpec | None:
    if spec is None:
        return None
    files = {"video": "clip", "array": "array", "labels": "file of labels"}
    found = {name: paths.of(getattr(spec, name), f"{key}.{name}", what) for name, what in files.items()}
    found["images"] = paths.of(spec.images, f"{key}.images", "folder of images", is_folder=True)
    return spec.model_copy(update=found)


@dataclass(frozen=True)
class _Paths:
    """Of the lab file ``where``, relative to ``folder``."""

    where: str
    folder: Path

    def of(self, value: str | None, key: str, what: str, *, is_folder: bool = False) -> str | None:
        if value is None:
            return None
        path = Path(value) if Path(value).is_absolute() else self.folder / value
        try:
            if not (path.is_dir() if is_folder else path.is_file()):
                raise InputError(
                    f"key '{key}': the {what} does not exist",
                    where=self.where,
                    value=str(path)[:200],
                    allowed=f"there: {_listed(path.parent)}",
                )
            if not os.access(path, os.R_OK | (os.X_OK if is_folder else 0)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return str(path.resolve())
        except (OSError, ValueError) as error:  # ValueError: a null character
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise InputError(
                f"key '{key}': the {what} cannot be read: {reason}", where=self.where, value=str(path)[:200]
            ) from None


def _listed(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
