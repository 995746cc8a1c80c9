"""Other ways to shape a link, beside ours: ``python -m benchmarks links_alternatives``, as JSON. Needs root; 5 minutes.

Layer-2 rate error of a saturating TCP flow, static (1 to 400 Mbit/s) and while the rate changes ten times a second:
HTB changed in place (ours), TBF changed in place, HTB deleted and added; with segmentation offload off and on.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._links import (
    SETTLE_SECONDS,
    counted,
    name,
    play,
    rate_scenario,
    row,
    saturating,
    undisturbed,
    wired,
    wires,
)
from testbed.programs.player.realtime import be_punctual, sleep_until
from testbed.report.fidelity.rates import AppliedRate
from testbed.runtime.host.namespaces import run_inside
from testbed.traces import Trace
from testbed.wires.shaping import Shaper, class_parameters
from testbed.wires.wire import OFFLOAD_BITS_PER_SECOND

STATIC_RATES = (1e6, 5e6, 20e6, 100e6, 400e6)
#: The usual advice for TBF: room for what HZ 250 lets pass between two ticks, and not less than a few frames.
TBF_BURST_SECONDS, TBF_BURST_BYTES = 4e-3, 5 * 1514
LEAF_BYTES = 2 << 20
PORT = "e0"
STEP_SECONDS = 0.1

Setter = Callable[[float], None]


class Tc:
    """A running ``tc -batch`` in the radio namespace, so that the way to say it costs all alike."""

    def __init__(self) -> None:
        command = ["tc", "-force", "-batch", "-"]
        self._process = run_inside(name("radio"), lambda: subprocess.Popen(command, stdin=subprocess.PIPE, text=True))

    def say(self, *lines: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{line}\n" for line in lines))
        self._process.stdin.flush()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def _tbf(rate: float) -> str:
    burst = max(TBF_BURST_BYTES, round(rate / 8 * TBF_BURST_SECONDS))
    return f"dev {PORT} root handle 1: tbf rate {round(rate)}bit burst {burst}b limit {LEAF_BYTES}b"


def _htb(rate: float) -> list[str]:
    return [
        f"qdisc add dev {PORT} root handle 1: htb default 1",
        f"class add dev {PORT} parent 1: classid 1:1 htb {class_parameters(rate)}",
        f"qdisc add dev {PORT} parent 1:1 handle a: bfifo limit {LEAF_BYTES}",
    ]


def setters(tc: Tc, shaper: Shaper, rate: float) -> dict[str, Setter]:
    """By name: what changes the rate. Each puts its own shaper in place when it is asked for the first time."""
    placed: set[str] = set()

    def ours(value: float) -> None:
        shaper.set_rates({PORT: value})

    def tbf(value: float) -> None:
        if "tbf" not in placed:
            placed.add("tbf")
            tc.say(f"qdisc del dev {PORT} root", f"qdisc add {_tbf(rate)}")
        tc.say(f"qdisc change {_tbf(value)}")

    def anew(value: float) -> None:
        tc.say(f"qdisc del dev {PORT} root", *_htb(value))

    return {"HTB in place": ours, "TBF in place": tbf, "HTB deleted and added": anew}


def static_error(way: str, rate: float, offload: bool, seconds: float = 4.0) -> float:
    """Over ``seconds``."""
    more = {"max_rate_bits_per_second": OFFLOAD_BITS_PER_SECOND * (10 if offload else 1)}
    with wired(wires(1, **more)) as shaper:
        tc = Tc()
        setters(tc, shaper, rate)[way](rate)
        shaper.set_rates({"u0": 1e9})
        time.sleep(0.1)
        with saturating(wires(1)[0]) as flow:
            time.sleep(SETTLE_SECONDS)
            start = time.monotonic()
            time.sleep(seconds + 0.1)
            arrivals = flow.arrivals()  # not counters: those count the headers of a super-packet once
        tc.close()
    return arrivals.bits_per_second(start, start + seconds) / rate - 1


def static() -> list[dict[str, Any]]:
    rows = []
    for rate in STATIC_RATES:
        offload = rate > OFFLOAD_BITS_PER_SECOND
        ways = {
            "HTB in place": ("HTB in place", offload),
            f"HTB, segmentation offload {'off' if offload else 'on'}": ("HTB in place", not offload),
            "TBF": ("TBF in place", offload),
        }
        found = {
            label: undisturbed(lambda way=way, on=on, rate=rate: static_error(way, rate, on))
            for label, (way, on) in ways.items()
        }
        what = f"rate error at {rate / 1e6:g} Mbit/s, segmentation offload {'on' if offload else 'off'}"
        rows.append(signed(what, found, 0.01))
    return rows


def signed(what: str, found: dict[str, tuple[float, float]], target: float | None) -> dict[str, Any]:
    """A row of absolute errors that keeps which way they went; ``found``: error and what the host slept, ours first."""
    errors = {way: error for way, (error, _) in found.items()}
    (_, ours), *others = errors.items()
    absolute = {way: abs(error) for way, error in others}
    slept = {way: ratio for way, (_, ratio) in found.items()}
    return row(what, abs(ours), "ratio", target, alternative=absolute, signed=errors, host_slept_ratio=slept)


def changing_error(way: str, mean: float, seconds: float = 15.0) -> dict[str, float]:
    """While the rate changes at 10 Hz; against the integral of the rates that were asked for."""
    rng = np.random.default_rng(11)
    values = mean * np.exp(rng.normal(0, 0.5, round((seconds + 2) / STEP_SECONDS)))
    times = np.arange(len(values), dtype=np.float64) * STEP_SECONDS
    if way == "HTB in place":
        trace = Trace(times, values, values, "rate", float(times[-1] + STEP_SECONDS))
        (played,) = play(wires(1), rate_scenario(1), {"ue0": trace}, seconds)
        whole, windows = played.errors(seconds - 1.0, 0.5)[0], played.errors(1.0, 0.5)
        return {"whole": whole.ratio, "worst_second": max((w.ratio for w in windows), key=abs)}
    with wired(wires(1)) as shaper:
        tc = Tc()
        change = setters(tc, shaper, mean)[way]
        change(mean)
        shaper.set_rates({"u0": 1e9})
        wire = wires(1)[0]
        with counted(wire) as counter, saturating(wire):
            time.sleep(SETTLE_SECONDS)
            origin = time.monotonic() + 0.1
            for at, value in zip(times, values, strict=True):
                sleep_until(origin + float(at))
                change(float(value))
        tc.close()
    asked = AppliedRate(origin + times, values)

    def ratio(start: float, end: float) -> float:
        begin, until, bits = counter.between(origin + start, origin + end)
        return bits / float(asked.bits_between(begin, until)) - 1

    seconds_of = [ratio(k + 0.5, k + 1.5) for k in range(int(seconds) - 1)]
    return {"whole": ratio(0.5, seconds - 0.5), "worst_second": max(seconds_of, key=abs)}


def changing() -> list[dict[str, Any]]:
    rows = []
    for mean in (2e6, 10e6, 50e6):
        ways = ("HTB in place", "TBF in place", "HTB deleted and added")
        found = {way: undisturbed(lambda way=way, mean=mean: changing_error(way, mean), tries=3) for way in ways}
        for key, label, target in (("whole", "15 s", 0.01), ("worst_second", "worst second", None)):
            what = f"rate error at 10 changes a second, mean {mean / 1e6:g} Mbit/s, {label}"
            rows.append(signed(what, {way: (errors[key], slept) for way, (errors, slept) in found.items()}, target))
    return rows


def main() -> None:
    rows = static()
    refused = be_punctual(10)  # only now: flows at this priority would keep the kernel's own work from its time
    rows += changing()
    print(json.dumps({"refused": refused, "figures": rows}, indent=1))


if __name__ == "__main__":
    main()
