"""``testbed link show|set|reset``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from controller.service.protocol import SetLink
from testbed.cli.options import Quantity
from testbed.errors import InputError
from testbed.lab.lab import Lab
from testbed.units import BIT_RATE, DURATION, RATIO
from testbed.wires.state import link_states


@click.group("link")
def command() -> None:
    """Look at, fix and release the links of a running lab."""


_lab = click.option("--lab", metavar="LAB", help="Which lab; not needed if one is up.")


@command.command("show")
@_lab
@click.argument("ue", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show(lab: str | None, ue: str | None, as_json: bool) -> None:
    """Rates, queues and drops of every link, or of one UE's, read from the kernel."""
    found = Lab.find(lab)
    if ue is not None:
        _check(found, ue)
    links = link_states(found.runtime.netns_name("radio"), _ues(found))
    states = [asdict(state) for state in links if ue in (None, state.ue)]
    if as_json:
        click.echo(json.dumps(states, indent=1))
        return
    for state in states:
        click.echo(
            f"{state['ue']:12s} {state['direction']:4s} {BIT_RATE.format(state['rate_bits_per_second']):>16s}  "
            f"queued {state['backlog_bytes']} B  sent {state['sent_bytes']} B  dropped {state['dropped_packets']}"
        )


@command.command("set")
@_lab
@click.argument("ue")
@click.option("--rate", type=Quantity(BIT_RATE), help="Fix the rate of both directions, for example '5 Mbit/s'.")
@click.option("--up", type=Quantity(BIT_RATE), help="Fix the uplink's rate only.")
@click.option("--down", type=Quantity(BIT_RATE), help="Fix the downlink's rate only.")
@click.option("--delay", type=Quantity(DURATION), help="One-way delay.")
@click.option("--jitter", type=Quantity(DURATION), help="Jitter of the delay.")
@click.option("--loss", type=Quantity(RATIO, maximum=1.0), help="Loss, for example '1 %'.")
def set_(
    lab: str | None,
    ue: str,
    rate: float | None,
    up: float | None,
    down: float | None,
    delay: float | None,
    jitter: float | None,
    loss: float | None,
) -> None:
    """Fix parts of a link; what is not named stays as it is."""
    found = Lab.find(lab)
    _check(found, ue)
    if all(value is None for value in (rate, up, down, delay, jitter, loss)):
        raise InputError("nothing to set", where="link set", allowed="--rate, --up, --down, --delay, --jitter, --loss")
    found.client.command(
        SetLink(
            node=ue,
            rate_up_bits_per_second=rate if up is None else up,
            rate_down_bits_per_second=rate if down is None else down,
            delay_seconds=delay,
            jitter_seconds=jitter,
            loss_ratio=loss,
        )
    )


@command.command("reset")
@_lab
@click.argument("ue")
def reset(lab: str | None, ue: str) -> None:
    """Return a link to the lab's values."""
    found = Lab.find(lab)
    _check(found, ue)
    found.client.command(SetLink(node=ue, reset=True))


def _ues(lab: Lab) -> list[str]:
    return [node.name for node in lab.state.nodes if node.role == "ue"]


def _check(lab: Lab, ue: str) -> None:
    if ue not in _ues(lab):
        raise InputError(f"lab {lab.state.name!r} has no such UE", value=ue, allowed=", ".join(_ues(lab)))
