"""What containers see of the user: fetched weights, and the folders of models and policies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from testbed.errors import InputError
from testbed.installed import CODE


def weights_caches() -> dict[str, Path]:
    """Where torch and Hugging Face keep weights that this user fetched, by the variable that names the folder: a
    container has no network to fetch them again."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111 - there may be no home
    known = {"TORCH_HOME": caches / "torch", "HF_HOME": caches / "huggingface"}
    found = {variable: Path(os.environ.get(variable) or folder).absolute() for variable, folder in known.items()}
    return {variable: folder for variable, folder in found.items() if folder.is_dir()}


#: What a container has at these places is its own.
_IN_CONTAINER = tuple(
    Path("/", place) for place in ("opt/testbed", "opt/packages", "tmp", "usr/lib", "etc", "dev", "proc")
)
_OTHERS_READ = 0o005


def user_paths() -> list[str]:
    """Folders that this process imports from beside its installation: a user's models and policies.

    One in which nothing can be imported is left out. Raises InputError for one that a container cannot have: it would
    cover what the container itself needs, or is closed to the container's user.
    """
    known = [Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)]
    found: list[str] = []
    for entry in sys.path:
        path = Path(entry or ".").resolve()
        if path == CODE:  # it is in the image
            continue
        if str(path) in found or any(path.is_relative_to(prefix) for prefix in known) or not _has_modules(path):
            continue
        if any(needed.is_relative_to(path) for needed in _IN_CONTAINER):
            raise InputError(
                "containers cannot have this folder, in which Python modules lie: it would cover their own",
                value=str(path),
                fix="Put the lab file, with its models and policies, into a folder of its own.",
            )
        if path.stat().st_mode & _OTHERS_READ != _OTHERS_READ:
            raise InputError(
                "the user of the containers may not read this folder, in which Python modules lie",
                value=str(path),
                fix=f"Open it (chmod o+rx {path}), or use --runtime netns.",
            )
        found.append(str(path))
    return found


def _has_modules(folder: Path) -> bool:
    try:
        return any(folder.glob("*.py")) or any(folder.glob("*/__init__.py"))
    except OSError:
        return False
