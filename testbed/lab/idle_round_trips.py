"""The round trip through every wire before the first task, recorded for the fidelity report."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from testbed.lab.lab import Lab
from testbed.labfile.schema import ExpandedUe, UeSpec
from testbed.protocol.records import Event, RoundTrips
from testbed.traces.files import load_trace
from testbed.wires.echo import round_trips
from testbed.wires.wire import WireSpec

ECHOES = 20
#: 98 bytes each: on a wire of 100 kbit/s, the slowest that is not in an outage, half of what it carries.
INTERVAL_SECONDS = 0.016
#: Beyond the configured delay; what comes later counts as lost.
PATIENCE_SECONDS = 0.25


def record_round_trips(lab: Lab, ues: Sequence[ExpandedUe], wires: Sequence[WireSpec]) -> None:
    """Measure all wires at once (0.35 s) and hand the result to the recorder."""
    delays = {ue.name: _configured_seconds(ue.spec) for ue in ues}
    paths = {wire.ue: (lab.runtime.netns_name(wire.ue), wire.edge_address) for wire in wires}
    try:
        found = round_trips(paths, ECHOES, INTERVAL_SECONDS, max(delays.values()) + PATIENCE_SECONDS)
    except OSError as error:
        lab.record(Event(time.monotonic(), "cli", "no-round-trips", f"no echoes on this host: {error}"))
        return
    for wire in wires:
        echoes = found[wire.ue]
        lab.record(
            RoundTrips(
                ue=wire.ue,
                monotonic_seconds=time.monotonic(),
                sent=echoes.sent,
                answered=echoes.answered,
                median_seconds=echoes.median_seconds,
                mean_seconds=echoes.mean_seconds,
                configured_seconds=delays[wire.ue],
                jitter_seconds=math.hypot(wire.up.jitter_seconds, wire.down.jitter_seconds),
            )
        )


def _configured_seconds(ue: UeSpec) -> float:
    """Delay of a wire there and back, at the start of its trace if it has one."""
    if ue.link.delay_trace is None:
        return 2 * ue.link.delay
    start = load_trace(Path(ue.link.delay_trace), "delay").value_at(0.0, ue.channel.at_end)
    return start.up + start.down
