"""Figures of the wires on this host, as JSON: ``python benchmarks/links.py``. Needs root; takes about two minutes.

Layer-2 rate error of a saturating TCP flow at static rates and while a Rayleigh trace plays at 10 Hz, cost of one
acknowledged rate change over 20 links (and of a line to ``tc -batch``, for comparison), lateness of trace steps, time
back in service after an outage, time to make the network of 50 UEs.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from controller.contract import Decision, UeDecision
from controller.model.channel import Channel
from controller.testing import example_scenario
from testbed.configs import LinkConfig
from testbed.links import plumbing
from testbed.links.playback import Playback
from testbed.links.probes import Flow
from testbed.links.realtime import be_punctual, sleep_until
from testbed.links.shaping import Shaper
from testbed.links.wire import WireSpec
from testbed.messages import LinkStep
from testbed.runtime import namespaces
from testbed.runtime.base import namespace_name
from testbed.runtime.namespaces import run_inside
from testbed.traces import Trace, generate
from testbed.traces.trace import Floats

LAB = "bench-links"
STATIC_RATES = (1e6, 5e6, 20e6, 100e6)
OUTAGES_SECONDS = (1.0, 2.0, 4.0, 8.0)


def name(node: str) -> str:
    return namespace_name(LAB, node)


@contextmanager
def wired(wires: Sequence[WireSpec]) -> Iterator[Shaper]:
    names = [name(node) for node in ("radio", "edge", *(wire.ue for wire in wires))]
    namespaces.create(names)
    try:
        plumbing.connect(wires, name)
        shaper = Shaper(name("radio"))
        yield shaper
        shaper.close()
    finally:
        for entry in names:
            namespaces.delete(entry)


def wires(count: int, **more: Any) -> list[WireSpec]:
    return [WireSpec(index, f"ue{index}", 10e6, 10e6, **more) for index in range(count)]


def static_rate_errors(seconds: float = 5.0) -> dict[str, dict[str, float]]:
    """Over the whole time, and the worst of its seconds."""
    result = {}
    with wired(wires(1)) as shaper:
        for rate in STATIC_RATES:
            shaper.set_rates({"e0": rate, "u0": 100e6})
            with Flow(name("ue0"), name("edge"), wires(1)[0].edge_address) as flow:
                time.sleep(1.0)
                start = time.monotonic()
                time.sleep(seconds)
                arrivals = flow.arrivals()
            windows = [arrivals.bits_per_second(start + k, start + k + 1) for k in range(int(seconds))]
            result[f"{rate / 1e6:g} Mbit/s"] = {
                "error_ratio": arrivals.bits_per_second(start, start + seconds) / rate - 1,
                "worst_second_ratio": max(abs(window / rate - 1) for window in windows),
            }
    return result


def change_seconds(links: int = 20, rounds: int = 1000) -> dict[str, float]:
    """Per link: ours (acknowledged), and a line to a running ``tc -batch -`` (not acknowledged)."""
    with wired(wires(links)) as shaper:
        ports = [wire.up_port for wire in wires(links)]
        start = time.perf_counter()
        for k in range(rounds):
            shaper.set_rates(dict.fromkeys(ports, 1e6 + k))
        ours = (time.perf_counter() - start) / rounds / links
        process = run_inside(
            name("radio"),
            lambda: subprocess.Popen(["tc", "-batch", "-"], stdin=subprocess.PIPE, text=True),
        )
        assert process.stdin is not None
        start = time.perf_counter()
        for k in range(rounds):
            for port in ports:
                process.stdin.write(f"class change dev {port} parent 1: classid 1:1 htb rate {1000000 + k}bit\n")
        process.stdin.close()
        process.wait()
        return {"netlink": ours, "tc_batch": (time.perf_counter() - start) / rounds / links}


def playing(seconds: float = 30.0, links: int = 3) -> dict[str, Any]:
    """Rayleigh traces at 10 Hz on all links at once, each saturated: rate error and step lateness."""
    scenario = example_scenario(links)
    traces = generate([Channel(150.0, "rayleigh", 0.5)] * links, seconds + 10, seed=1)
    specs = wires(links)
    steps: list[LinkStep] = []
    with wired(specs) as shaper:
        playback = Playback(
            scenario,
            [link_config(wire) for wire in specs],
            {wire.ue: trace for wire, trace in zip(specs, traces, strict=True)},
            shaper,
            steps.append,
        )
        decision = Decision(
            0, 0, 0.0, tuple(UeDecision(ue.name, (), 0.1, 8e6 / links, 8e6 / links, 0.1) for ue in scenario.ues)
        )
        playback.decide(decision)
        flows = [Flow(name(wire.ue), name("edge"), wire.edge_address, send_buffer=1 << 18) for wire in specs]
        for flow in flows:
            flow.__enter__()
        origin = time.monotonic() + 0.1
        playback.start(origin)
        while time.monotonic() < origin + seconds:
            playback.prepare()
            sleep_until(playback.next_deadline_seconds())
            playback.step()
        arrivals = [flow.arrivals() for flow in flows]
        for flow in flows:
            flow.__exit__(None, None, None)
    errors: list[float] = []
    worst: list[float] = []  # above the limit of max(1 %, 2 frames) a second
    for wire, arrived in zip(specs, arrivals, strict=True):
        own = [step for step in steps if step.ue == wire.ue and step.direction == "up" and step.cause == "trace"]
        times = np.array([step.applied_seconds for step in own])
        rates = np.array([step.applied_bits_per_second for step in own])
        begin, end = origin + 2, origin + seconds - 0.5
        sent = applied_bits(times, rates, begin, end)
        errors.append(arrived.bits_per_second(begin, end) * (end - begin) / sent - 1)
        for k in np.arange(begin, end - 1):
            sent = applied_bits(times, rates, k, k + 1)
            worst.append(abs(arrived.bits_per_second(k, k + 1) - sent) - max(2 * 1514 * 8, 0.01 * sent))
    lateness = np.array([step.applied_seconds - step.planned_seconds for step in steps if step.cause == "trace"])
    return {
        "rate_error_ratio": errors,
        "seconds_beyond_limit": int(np.sum(np.array(worst) > 0)),
        "seconds_measured": len(worst),
        "lateness_p50_seconds": float(np.quantile(lateness, 0.5)),
        "lateness_p99_seconds": float(np.quantile(lateness, 0.99)),
        "lateness_max_seconds": float(lateness.max()),
        "skipped_steps": playback.skipped_steps,
    }


def applied_bits(times: Floats, rates: Floats, begin: float, end: float) -> float:
    """Integral of a step function over [begin, end)."""
    edges = np.clip(np.append(times, np.inf), begin, end)
    return float(np.sum(rates * np.diff(edges)))


def link_config(wire: WireSpec, outage: Any = "hold") -> LinkConfig:
    return LinkConfig(wire.ue, wire.up_port, wire.down_port, "", "loop", outage, 100e3)


def recovery_seconds() -> dict[str, dict[str, float]]:
    """From the end of an outage to the first byte that arrives."""
    result: dict[str, dict[str, float]] = {}
    scenario = example_scenario(1)
    for outage in ("hold", "loss"):
        result[outage] = {}
        for seconds in OUTAGES_SECONDS:
            (wire,) = wires(1)
            trace = Trace([0, 1, 1 + seconds], [1e-10, 0, 1e-10], [1e-10, 0, 1e-10], "gain", 60.0)  # type: ignore[arg-type]
            steps: list[LinkStep] = []
            with wired([wire]) as shaper:
                playback = Playback(scenario, [link_config(wire, outage)], {"ue0": trace}, shaper, steps.append)
                with Flow(name("ue0"), name("edge"), wire.edge_address, send_buffer=1 << 16) as flow:
                    playback.start(time.monotonic())
                    for _ in range(3):
                        sleep_until(playback.next_deadline_seconds())
                        playback.step()
                    time.sleep(3)
                    back = steps[-1].applied_seconds
                    result[outage][f"{seconds:g} s"] = flow.arrivals().first_after(back) - back
    return result


def network_seconds(ues: int = 50) -> float:
    start = time.perf_counter()
    with wired(wires(ues)):
        return time.perf_counter() - start


def main() -> None:
    figures: dict[str, Any] = {
        "network_of_50_ues_seconds": network_seconds(),
        "change_seconds_per_link": change_seconds(),
        "static_rate": static_rate_errors(),
        "recovery_seconds": recovery_seconds(),
    }
    figures["refused"] = be_punctual(10)  # from here on real-time, so last
    figures["playing_10_hz_3_links"] = playing()
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
