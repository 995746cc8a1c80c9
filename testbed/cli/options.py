"""Options that several verbs share."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from testbed.folders import reach
from testbed.lab import checks
from testbed.lab.runtimes import RUNTIME_CHOICES
from testbed.labfile import lab_files
from testbed.labfile.schema import Topology, load
from testbed.units import Dimension

F = TypeVar("F", bound=Callable[..., Any])


class Quantity(click.ParamType["float"]):
    """``60s``, ``5 Mbit/s``, ``1 %``: a value with its unit, like in a lab file."""

    def __init__(self, dimension: Dimension, *, positive: bool = False, maximum: float = math.inf) -> None:
        self.name = dimension.name
        self._dimension = dimension
        self._positive = positive
        self._maximum = maximum

    def convert(self, value: Any, _param: click.Parameter | None, _context: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            parsed = self._dimension.parse(value)
        except ValueError as error:
            self.fail(str(error))
        if parsed < 0 or (self._positive and parsed == 0):
            self.fail(f"{value!r} must {'be above' if self._positive else 'not be below'} 0")
        if parsed > self._maximum:
            self.fail(f"{value!r} must be at most {self._dimension.format(self._maximum)}")
        return parsed


@dataclass(frozen=True)
class LabChoice:
    """FILE and the options that override it: everything that decides what the lab is."""

    file: Path
    overrides: tuple[str, ...] = ()
    policy: str | None = None
    seed: int | None = None
    name: str | None = None

    @property
    def folder(self) -> Path:
        return self.file.parent.absolute()

    def also(self, *overrides: str) -> LabChoice:
        """The same with more overrides, which come last."""
        return replace(self, overrides=(*self.overrides, *overrides))

    def read(self, *, imports: bool = True, traced: bool = False) -> Topology:
        """The lab as asked for, its models checked (which runs the user's code, if ``imports``; see
        ``checks.check_models`` for ``traced``); warnings go to stderr.

        Raises InputError.
        """
        named = (("policy", self.policy), ("seed", self.seed), ("name", self.name))
        more = [f"{key}={value}" for key, value in named if value is not None]
        if imports:
            reach(self.folder)
        # what --set says of the policy is about the one that --policy names
        topology = load(self.file, (*more, *self.overrides), imports=imports)
        if imports:
            checks.check_models(topology, str(self.file), self.file.parent, traced=traced)
        for warning in (*lab_files.check_files(topology, str(self.file)), *checks.warnings(topology)):
            click.echo(f"warning: {warning}", err=True)
        return topology


def lab_file(function: F) -> F:
    """FILE, --set, --policy, --seed, --name: the verb gets them as one `LabChoice`, its argument ``lab``."""

    @functools.wraps(function)
    def verb(
        file: Path, overrides: tuple[str, ...], policy: str | None, seed: int | None, name: str | None, **rest: Any
    ) -> Any:
        return function(lab=LabChoice(file, overrides, policy, seed, name), **rest)

    for option in reversed(
        (
            click.argument("file", type=click.Path(path_type=Path)),
            click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the lab."),
            click.option("--policy", metavar="P", help="Use this policy instead; options that both have stay."),
            click.option("--seed", type=int, metavar="S", help="Use this root seed instead of the lab's."),
            click.option("--name", metavar="N", help="Use this name instead of the lab's."),
        )
    ):
        verb = option(verb)
    return cast(F, verb)


def no_import(function: F) -> F:
    """--no-import, the verb's argument ``imports``: for a lab file that somebody else wrote."""
    return click.option(
        "--no-import",
        "imports",
        is_flag=True,
        flag_value=False,
        default=True,
        help="Run no code that lies beside the lab file: its models are not tried.",
    )(function)


def runtime(function: F) -> F:
    return click.option(
        "--runtime",
        type=click.Choice(RUNTIME_CHOICES),
        default="auto",
        show_default=True,
        help="Where nodes live; auto: docker where an engine answers and the images are built, else netns.",
    )(function)


def notify(text: str) -> None:
    """Progress goes to stderr. Nobody who has stopped reading it stops what is told."""
    with contextlib.suppress(OSError):
        click.echo(f"- {text}", err=True)
