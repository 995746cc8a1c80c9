"""Figures of the wires on this host, as JSON: ``python -m benchmarks links``. Needs root; takes about three minutes.

Layer-2 rate error of a saturating TCP flow at static rates and while a Rayleigh trace plays at 10 Hz for 60 s on three
links at once, lateness of trace steps, cost of one acknowledged rate change over 20 links (and of other ways to change
a rate), time back in service after an outage, time to make the network of 50 UEs. pyroute2 is measured where it is
installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._links import (
    SETTLE_SECONDS,
    counted,
    equal_spectrum,
    link_config,
    name,
    play,
    row,
    saturating,
    undisturbed,
    wired,
    wires,
)
from controller.model.channel import Channel
from controller.policies.examples import example_scenario
from testbed.programs.player.playback import Playback
from testbed.programs.player.realtime import be_punctual, sleep_until
from testbed.protocol.records import LinkStep
from testbed.runtime.host.namespaces import run_inside
from testbed.traces import Trace, generate
from testbed.wires.wire import WireSpec

STATIC_RATES = (1e6, 5e6, 20e6, 100e6)
OUTAGES_SECONDS = (1.0, 2.0, 4.0, 8.0)


def static_rates(seconds: float = 10.0) -> list[dict[str, Any]]:
    """Over the whole time, and the worst of its seconds."""
    rows = []
    with wired(wires(1)) as shaper:
        for rate in STATIC_RATES:
            shaper.set_rates({"e0": rate, "u0": 100e6})
            (whole, worst), slept = undisturbed(lambda rate=rate: _static(rate, seconds))
            what = f"rate error at {rate / 1e6:g} Mbit/s"
            two_frames = 2 * 1514 * 8 / rate
            rows += [
                row(f"{what}, {seconds:g} s", whole, "ratio", 0.01, host_slept_ratio=slept),
                row(f"{what}, worst second", worst, "ratio", max(0.01, two_frames), host_slept_ratio=slept),
            ]
    return rows


def _static(rate: float, seconds: float) -> tuple[float, float]:
    (wire,) = wires(1)
    with counted(wire) as counter, saturating(wire):
        time.sleep(SETTLE_SECONDS)
        start = time.monotonic()
        time.sleep(seconds + 0.1)
    windows = [counter.between(start, start + seconds)]
    windows += [counter.between(start + k, start + k + 1) for k in range(int(seconds))]
    errors = [abs(carried / (until - since) / rate - 1) for since, until, carried in windows]
    return errors[0], max(errors[1:])


def playing(seconds: float = 60.0, links: int = 3) -> list[dict[str, Any]]:
    """Rayleigh traces at 10 Hz on all links at once, each saturated: rate error and step lateness."""
    scenario = example_scenario(links)
    specs = wires(links)
    traces = generate([Channel(150.0, "rayleigh", 0.5)] * links, seconds + 10, seed=1)
    by_ue = {wire.ue: trace for wire, trace in zip(specs, traces, strict=True)}
    decision = equal_spectrum(scenario, 1 / links)
    played, slept = undisturbed(lambda: play(specs, scenario, by_ue, seconds, decision), tries=2)
    whole = [abs(each.errors(seconds - 1.0, 0.5)[0].ratio) for each in played]
    windows = [error for each in played for error in each.errors(1.0, 0.5)]
    lateness = np.array([late for each in played for late in each.lateness_seconds])
    what = f"{links} saturated links, Rayleigh at 10 Hz, {seconds:g} s"
    rows = [
        row(f"{what}: rate error of the worst link", max(whole), "ratio", 0.01, all=whole),
        row(
            f"{what}: seconds beyond 1 % and 2 frames",
            sum(error.beyond for error in windows),
            "count",
            0,
            of=len(windows),
        ),
        row(f"{what}: step lateness, p99", float(np.quantile(lateness, 0.99)), "s", 0.5e-3),
        row(f"{what}: step lateness, max", float(lateness.max()), "s", 2e-3),
    ]
    return [{**figure, "host_slept_ratio": slept} for figure in rows]


# -------------------------------------------------------------------------------------------------- cost of one change


def _seconds_each(change: Callable[[int], None], rounds: int, links: int) -> float:
    start = time.perf_counter()
    for number in range(rounds):
        change(number)
    return (time.perf_counter() - start) / rounds / links


def _by_tc(ports: list[str]) -> Callable[[int], None]:
    """A process per change."""

    def change(number: int) -> None:
        for port in ports:
            options = f"dev {port} parent 1: classid 1:1 htb rate {1000000 + number}bit"
            subprocess.run(["tc", "-n", name("radio"), "class", "change", *options.split()], check=True)

    return change


def _by_batch(ports: list[str], rounds: int) -> float:
    """Lines to a running tc, which does not acknowledge them; the time until it has done them all."""
    process = run_inside(
        name("radio"), lambda: subprocess.Popen(["tc", "-batch", "-"], stdin=subprocess.PIPE, text=True)
    )
    assert process.stdin is not None
    start = time.perf_counter()
    for number in range(rounds):
        for port in ports:
            process.stdin.write(f"class change dev {port} parent 1: classid 1:1 htb rate {1000000 + number}bit\n")
    process.stdin.close()
    process.wait()
    return (time.perf_counter() - start) / rounds / len(ports)


def _by_pyroute2(indices: list[int], rounds: int) -> float:
    """Inside the namespace from the beginning: its socket belongs to a thread of its own."""

    def body() -> float:
        with importlib.import_module("pyroute2").IPRoute() as route:

            def change(number: int) -> None:
                for index in indices:
                    route.tc("change-class", "htb", index, 0x10001, parent=0x10000, rate=f"{1000000 + number}bit")

            return _seconds_each(change, rounds, len(indices))

    return run_inside(name("radio"), body)


def change_costs(links: int = 20, rounds: int = 1000) -> list[dict[str, Any]]:
    """Per link: ours (acknowledged), and other ways."""
    with wired(wires(links)) as shaper:
        ports = [wire.up_port for wire in wires(links)]
        ours = _seconds_each(lambda number: shaper.set_rates(dict.fromkeys(ports, 1e6 + 8 * number)), rounds, links)
        others = {
            "tc, a process each": _seconds_each(_by_tc(ports), 5, links),
            "a line to tc -batch (not acknowledged)": _by_batch(ports, rounds),
        }
        if importlib.util.find_spec("pyroute2") is not None:
            indices = run_inside(name("radio"), lambda: [socket.if_nametoindex(port) for port in ports])
            others["pyroute2"] = _by_pyroute2(indices, 20)
    return [row(f"one acknowledged rate change, {links} links at once", ours, "s", 0.05e-3, alternative=others)]


# --------------------------------------------------------------------------------------------------------- what remains


def recovery() -> list[dict[str, Any]]:
    """From the end of an outage to the first byte that arrives."""
    rows = []
    scenario = example_scenario(1)
    for outage, target in (("hold", 1.0), ("loss", 2.0)):
        times = {seconds: _recovery_seconds(scenario, outage, seconds) for seconds in OUTAGES_SECONDS}
        by_outage = {f"{seconds:g} s": measured for seconds, measured in times.items()}
        rows.append(
            row(f"first byte after an outage of 1-8 s, {outage}", max(times.values()), "s", target, by_outage=by_outage)
        )
    return rows


def _recovery_seconds(scenario: Any, outage: Any, seconds: float) -> float:
    (wire,) = wires(1)
    gains = np.array([1e-10, 0.0, 1e-10])
    trace = Trace(np.array([0.0, 1.0, 1.0 + seconds]), gains, gains, "gain", 60.0)
    steps: list[LinkStep] = []
    with wired([wire]) as shaper:
        playback = Playback(scenario, [link_config(wire, outage)], {"ue0": trace}, shaper, steps.append)
        with saturating(wire, 1 << 16) as flow:
            playback.start(time.monotonic())
            while sum(step.cause == "trace" for step in steps) < 2 * 3:
                playback.prepare()
                sleep_until(playback.next_deadline_seconds())
                playback.step()
            time.sleep(3)
            back = steps[-1].applied_seconds
            return flow.arrivals().first_after(back) - back


def network_seconds(ues: int = 50) -> float:
    specs = [WireSpec(index, f"ue{index}", 10e6, 10e6) for index in range(ues)]
    start = time.perf_counter()
    with wired(specs):
        return time.perf_counter() - start


def main() -> None:
    rows = [row("the network of 50 UEs", network_seconds(), "s", 0.75)]
    rows += change_costs()
    rows += static_rates()
    rows += recovery()
    refused = be_punctual(10)  # from here on real-time, so last
    rows += playing()
    print(json.dumps({"refused": refused, "figures": rows}, indent=1))


if __name__ == "__main__":
    main()
