"""The programs of a lab, each a module whose ``main(config_path)`` runs in a node: one table for all who start them."""

from __future__ import annotations

from typing import NamedTuple


class ProgramModule(NamedTuple):
    module: str
    needs_torch: bool


PROGRAMS = {
    "recorder": ProgramModule("testbed.programs.recorder.recorder", needs_torch=False),
    "controller": ProgramModule("testbed.programs.controller.controller", needs_torch=True),
    "player": ProgramModule("testbed.programs.player.player", needs_torch=False),
    "edge": ProgramModule("testbed.programs.edge.main", needs_torch=True),
    "ue": ProgramModule("testbed.programs.ue.main", needs_torch=True),
    "exporter": ProgramModule("testbed.programs.exporter.exporter", needs_torch=False),
    "selftest": ProgramModule("testbed.programs.selftest.selftest", needs_torch=True),
}
#: What is imported once, before a lab's agents are forked.
AGENT_MODULES = tuple(PROGRAMS[name].module for name in ("ue", "edge", "controller"))
