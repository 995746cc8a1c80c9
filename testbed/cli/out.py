"""Options that name what is to be written: whether it can be is known before anything is started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from testbed.errors import InputError
from testbed.folders import can_be_written


class Out(click.Path):
    """A folder to write into, or a file to write; its own and its parents' may be missing. Raises InputError."""

    def __init__(self, *, folder: bool) -> None:
        super().__init__(path_type=Path, file_okay=not folder, dir_okay=folder)
        self._folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        place = path.absolute() if self._folder else path.absolute().parent
        if not can_be_written(place):
            raise InputError(
                "nothing can be written there",
                where=param.opts[0] if param is not None else "",
                value=str(path),
                allowed="a place whose folders are folders that this user may write to",
            )
        return path


FOLDER, FILE = Out(folder=True), Out(folder=False)
