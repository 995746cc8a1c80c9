"""The books of one side of a task that alternates: nodes one after another, each from when it can start to its target.

A side computes ahead of its books: what a node makes is handed over when its time has come. So a node's start and end
are those of the device (or share) that is emulated, whatever the host took; only what crosses can be late.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from testbed.mechanisms.uploading.upload_frames import Segment

#: Nodes that follow each other closer than that are one segment: stamps are rounded.
_GAP_SECONDS = 1e-9
#: A side waits for what the other makes, and waking up takes the host so long: a value that is no later is in time.
WAKE_UP_SECONDS = 1e-3
#: Shorter segments are not judged: a profile gives some nodes no time at all.
JUDGED_SECONDS = 5e-3


@dataclass(frozen=True)
class Awaited:
    """The last of several things to come: its name and when it was there; ``""`` for nothing."""

    name: str = ""
    seconds: float = -1.0

    def after(self, other: Awaited) -> Awaited:
        return self if self.seconds >= other.seconds else other


class Timeline:
    """Segments of one task on one side. Times are CLOCK_MONOTONIC seconds."""

    def __init__(self, start_seconds: float) -> None:
        self.free_seconds = start_seconds
        self.segments: list[Segment] = []

    def start_of(self, value: Awaited, layer: Awaited) -> float:
        """When a node starts that waits for these."""
        return max(self.free_seconds, value.seconds, layer.seconds)

    def ran(
        self,
        node: str,
        target_seconds: float,
        value: Awaited,
        layer: Awaited,
        compute_seconds: float,
        share: float,
        *,
        crosses_seconds: float | None = None,
    ) -> float:
        """Book a node. Returns when it ends. ``crosses_seconds``: the other side needs it, and it was computed then."""
        start = self.start_of(value, layer)
        end = start + target_seconds
        late = crosses_seconds is not None and crosses_seconds > end + WAKE_UP_SECONDS
        if crosses_seconds is not None:
            end = max(end, crosses_seconds)
        last = self.segments[-1] if self.segments else None
        if last is not None and start <= last.end_seconds + _GAP_SECONDS and share == last.share:
            whole = last.target_seconds + target_seconds
            self.segments[-1] = msgspec.structs.replace(
                last,
                last=node,
                end_seconds=end,
                target_seconds=whole,
                compute_seconds=last.compute_seconds + compute_seconds,
                overrun=last.overrun or (late and whole >= JUDGED_SECONDS),
            )
        else:
            self.segments.append(
                Segment(
                    number=len(self.segments),
                    first=node,
                    last=node,
                    start_seconds=start,
                    end_seconds=end,
                    target_seconds=target_seconds,
                    compute_seconds=compute_seconds,
                    free_seconds=self.free_seconds,
                    value=value.name,
                    value_seconds=value.seconds,
                    layer=layer.name,
                    layer_seconds=layer.seconds,
                    overrun=late and target_seconds >= JUDGED_SECONDS,
                    share=share,
                )
            )
        self.free_seconds = end
        return end
