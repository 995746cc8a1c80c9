"""Which models were traced on this host before, by content: a check of a lab takes seconds once, then none. No torch.

What a model is made from: its name, this project's code, the installed packages, the profile that has to describe its
graph and, for a user's own, every module that was imported from outside of the environment and whatever else lies in
the lab file's folder (weights; not other labs).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import sys
import sysconfig
from pathlib import Path

import msgspec

import controller
import testbed
from controller.contract import ModelProfile
from testbed.folders import cache_file, write_whole

_DIGEST_BYTES = 16


class _Vouched(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the files of a user's model held when it was traced."""

    modules: dict[str, str]  # digest by path
    beside: str  # digest of names, sizes and times of the files beside the lab file


class Voucher:
    """One model as a lab names it. ``use`` tells labs apart that ask for more of it than to be cut."""

    def __init__(self, model: str, folder: Path, profile: ModelProfile | None, use: str = "") -> None:
        self._folder = None if model.startswith("torchvision:") else folder.absolute()
        packages = Path(sysconfig.get_path("purelib"))
        parts: list[str | bytes] = [
            model,
            str(self._folder),
            use,
            b"" if profile is None else msgspec.json.encode((profile.model, profile.nodes)),
            _sources(),
            str(packages.stat().st_mtime_ns if packages.is_dir() else 0),
            *(importlib.metadata.version(name) for name in ("torch", "torchvision")),
        ]
        self._path = cache_file("traced", f"{_digest(*parts)}.json")

    @property
    def known(self) -> bool:
        """Whether just this was traced before."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_Vouched)
            return found.beside == self._beside() and all(
                _digest(Path(path).read_bytes()) == digest for path, digest in found.modules.items()
            )
        except (OSError, msgspec.DecodeError):
            return False

    def remember(self) -> None:
        """It was traced by this process. On a host whose cache cannot be written it will be again."""
        vouched = _Vouched(self._modules(), self._beside())
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, msgspec.json.encode(vouched))

    def _modules(self) -> dict[str, str]:
        if self._folder is None:
            return {}
        apart = [
            *map(str, (sys.prefix, sys.base_prefix)),
            *(str(Path(p.__file__ or "").parent) for p in (testbed, controller)),
        ]
        files = {str(getattr(module, "__file__", None) or "") for module in list(sys.modules.values())}
        own = [file for file in files if file.endswith(".py") and not file.startswith(tuple(apart))]
        return {file: _digest(Path(file).read_bytes()) for file in sorted(own) if Path(file).is_file()}

    def _beside(self) -> str:
        if self._folder is None:
            return ""
        rows = []
        for entry in sorted(os.scandir(self._folder), key=lambda entry: entry.name):
            if entry.is_file() and not entry.name.endswith((".yaml", ".yml", ".py")):
                status = entry.stat()
                rows.append(f"{entry.name} {status.st_size} {status.st_mtime_ns}")
        return _digest(*rows)


def _sources() -> str:
    """Digest of what loads and traces models."""
    folder = Path(__file__).parent
    own = Path(controller.__file__ or "").parent
    files = [*sorted(folder.glob("*.py")), own / "user_code.py", own / "torchvision_operators.py"]
    return _digest(*(file.read_bytes() for file in files))


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()
