"""Which lab is meant: a lab file, and what overrides it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testbed.lab import checks
from testbed.labfile import lab_files
from testbed.labfile.load import load
from testbed.labfile.schema import Topology


@dataclass(frozen=True)
class LabChoice:
    """FILE and the options that override it: everything that decides what the lab is."""

    file: Path
    overrides: tuple[str, ...] = ()
    policy: str | None = None
    seed: int | None = None
    name: str | None = None
    warn: Callable[[str], None] = logging.getLogger("testbed").warning

    @property
    def folder(self) -> Path:
        return self.file.parent.absolute()

    @property
    def sets(self) -> tuple[str, ...]:
        """All of it as ``--set`` takes it."""
        named = (("policy", self.policy), ("seed", self.seed), ("name", self.name))
        # what --set says of the policy is about the one that --policy names
        return (*(f"{key}={value}" for key, value in named if value is not None), *self.overrides)

    def read(self, *, imports: bool = True, traced: bool = False) -> Topology:
        """The lab as asked for, its models checked (which runs the user's code, if ``imports``; see
        ``checks.check_models`` for ``traced``); warnings go to ``warn``.

        Raises InputError.
        """
        topology = load(self.file, self.sets, imports=imports)
        if imports:
            checks.check_models(topology, str(self.file), self.file.parent, traced=traced)
        for warning in (*lab_files.check_files(topology, str(self.file)), *checks.warnings(topology)):
            self.warn(warning)
        return topology
