"""Options that several verbs share."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click
import msgspec

from controller.policies import registry
from testbed.lab.choice import LabChoice
from testbed.lab.runtimes import RUNTIME_CHOICES
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


def complete_policy(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of policies for a shell."""
    return [name for name in registry.available() if name.startswith(incomplete)]


def lab_file(function: F) -> F:
    """FILE (else lab.yaml), --set, --policy, --seed, --name: one `LabChoice`, the verb's argument ``lab``."""

    @functools.wraps(function)
    def verb(
        file: Path, overrides: tuple[str, ...], policy: str | None, seed: int | None, name: str | None, **rest: Any
    ) -> Any:
        return function(lab=LabChoice(file, overrides, policy, seed, name, warn), **rest)

    for option in reversed(
        (
            click.argument("file", type=click.Path(path_type=Path), default="lab.yaml"),
            click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the lab."),
            click.option(
                "--policy",
                metavar="P",
                shell_complete=complete_policy,
                help="Use this policy instead; options that both have stay.",
            ),
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


def print_json(value: object) -> None:
    """A result for programs, on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())


def warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)


def notify(text: str) -> None:
    """Progress goes to stderr. Nobody who has stopped reading it stops what is told."""
    with contextlib.suppress(OSError):
        click.echo(f"- {text}", err=True)
