"""Options that several verbs share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from testbed import checks
from testbed.runtime.select import RUNTIME_CHOICES
from testbed.topology import Topology, load
from testbed.units import Dimension

F = TypeVar("F", bound=Callable[..., Any])


class Quantity(click.ParamType["float"]):
    """``60s``, ``5 Mbit/s``, ``1 %``: a value with its unit, like in a lab file."""

    def __init__(self, dimension: Dimension, *, positive: bool = False) -> None:
        self.name = dimension.name
        self._dimension = dimension
        self._positive = positive

    def convert(self, value: Any, _param: click.Parameter | None, _context: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            parsed = self._dimension.parse(value)
        except ValueError as error:
            self.fail(str(error))
        if parsed < 0 or (self._positive and parsed == 0):
            self.fail(f"{value!r} must {'be above' if self._positive else 'not be below'} 0")
        return parsed


def lab_file(function: F) -> F:
    """FILE, --set, --policy, --seed, --name: everything that decides what the lab is."""
    for option in reversed(
        (
            click.argument("file", type=click.Path(path_type=Path)),
            click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the lab."),
            click.option("--policy", metavar="P", help="Use this policy instead of the lab's."),
            click.option("--seed", type=int, metavar="S", help="Use this root seed instead of the lab's."),
            click.option("--name", metavar="N", help="Use this name instead of the lab's."),
        )
    ):
        function = option(function)
    return function


def runtime(function: F) -> F:
    return click.option(
        "--runtime",
        type=click.Choice(RUNTIME_CHOICES),
        default="auto",
        show_default=True,
        help="Where nodes live; auto: docker where an engine answers and the images are built, else netns.",
    )(function)


def read_lab(
    file: Path, overrides: tuple[str, ...], policy: str | None, seed: int | None, name: str | None
) -> Topology:
    """The lab as asked for, its models checked; warnings go to stderr. Raises InputError."""
    more = [
        f"{key}={value}" for key, value in (("policy", policy), ("seed", seed), ("name", name)) if value is not None
    ]
    # a user's models and policies may lie beside the lab file; the lab's processes inherit this path
    sys.path.append(str(file.parent.absolute()))
    # a policy by name drops the options of the lab's own, so what --set says of the policy must come after it
    topology = load(file, (*more, *overrides))
    checks.check_models(topology, str(file), file.parent)
    for warning in checks.warnings(topology):
        click.echo(f"warning: {warning}", err=True)
    return topology


def notify(text: str) -> None:
    """Progress goes to stderr."""
    click.echo(f"- {text}", err=True)
