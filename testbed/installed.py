"""Where the files are that the program needs beside its code: in the checkout, or in the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
#: The folder that holds the packages ``testbed`` and ``controller``: a checkout, or where pip put them.
CODE = _PACKAGE.parent
#: What a wheel takes along, as ``testbed/shipped/...`` (setup.py).
_INSTALLED = _PACKAGE / "shipped"


def shipped(*parts: str) -> Path:
    """A file or folder of the project: ``images/...``, ``grafana/...``, ``topologies/...``, ``constraints.txt``, ..."""
    return (_INSTALLED if _INSTALLED.is_dir() else CODE).joinpath(*parts)
