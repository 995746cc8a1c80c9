"""What a run is doing right now, from the recorder's live socket: a table in a terminal, a line every 5 s elsewhere."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType

import msgspec
import numpy as np
import zmq
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from testbed.protocol.record import Record
from testbed.protocol.records import SlotRecord, TaskArrived, TaskRecord, decode_record
from testbed.protocol.sockets import live_endpoint

WINDOW_SECONDS = 10.0
LINE_SECONDS = 5.0


@dataclass
class _Ue:
    arrived: int = 0
    completed: int = 0
    failed: int = 0
    dropped: int = 0
    cut: str = ""
    rate_bits_per_second: float = float("nan")
    delays: deque[tuple[float, float]] = field(default_factory=deque)  # (end, E2E), the last WINDOW_SECONDS

    @property
    def waiting(self) -> int:
        return self.arrived - self.completed - self.failed - self.dropped

    def recent(self, now: float) -> list[float]:
        while self.delays and self.delays[0][0] < now - WINDOW_SECONDS:
            self.delays.popleft()
        return [delay for _, delay in self.delays]


class LiveTable:
    """Open it before the run begins (what was published earlier is not seen), :meth:`update` it a few times a second.

    >>> with LiveTable("/run/testbed/demo", duration_seconds=30.0, policy="neurosurgeon") as live:  # doctest: +SKIP
    ...     while running():
    ...         live.update()
    ...         time.sleep(0.2)

    Never blocks. ``duration_seconds`` None: the run lasts until it is stopped.
    """

    def __init__(
        self,
        lab_directory: str,
        duration_seconds: float | None,
        *,
        policy: str = "",
        console: Console | None = None,
    ) -> None:
        self.duration_seconds = duration_seconds
        self.policy = policy
        self._console = console or Console(stderr=True)
        self._ues: dict[str, _Ue] = {}
        self._slot = -1
        self._origin: float | None = None
        self._next_line = 0.0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(live_endpoint(lab_directory))
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> LiveTable:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        self._socket.close(linger=0)
        self._context.term()

    def update(self) -> None:
        """Take what was published since the last call, and show it."""
        while True:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                self._take(decode_record(frame))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # the recorder counts and reports it
        now = time.monotonic()
        if self._live:
            self._live.update(self.render(), refresh=True)
        elif now >= self._next_line and self._origin is not None:
            self._next_line = now + LINE_SECONDS
            self._console.print(self.line(), highlight=False, soft_wrap=True)

    def _take(self, record: Record) -> None:
        if isinstance(record, TaskArrived):
            self._ue(record.ue).arrived += 1
        elif isinstance(record, TaskRecord):
            ue = self._ue(record.ue)
            if record.status == "completed":
                ue.completed += 1
                end = record.result_received_seconds
                ue.delays.append((end, end - record.arrival_seconds))
            elif record.status == "dropped":
                ue.dropped += 1
            else:
                ue.failed += 1
        elif isinstance(record, SlotRecord):
            ue = self._ue(record.ue)
            ue.cut, ue.rate_bits_per_second = record.cut, record.rate_up_bits_per_second
            self._slot = max(self._slot, record.slot)
            if self._origin is None and record.slot >= 0:
                self._origin = record.start_seconds

    def _ue(self, name: str) -> _Ue:
        return self._ues.setdefault(name, _Ue())

    def _elapsed(self) -> float:
        return 0.0 if self._origin is None else max(0.0, time.monotonic() - self._origin)

    def _progress_text(self) -> str:
        elapsed = self._elapsed()
        if self.duration_seconds is None:
            return f"{elapsed:.0f} s"
        if elapsed > self.duration_seconds:
            return f"{self.duration_seconds:.0f} s of {self.duration_seconds:.0f} s, finishing what is in flight"
        return f"{elapsed:.0f} s of {self.duration_seconds:.0f} s"

    def line(self) -> str:
        """One line without any terminal art."""
        now = time.monotonic()
        delays = [delay for ue in self._ues.values() for delay in ue.recent(now)]
        mean = f"{np.mean(delays) * 1e3:.0f} ms" if delays else "-"
        return (
            f"{self._progress_text()}: slot {self._slot},"
            f" {sum(ue.arrived for ue in self._ues.values())} arrived,"
            f" {sum(ue.completed for ue in self._ues.values())} done,"
            f" {sum(ue.failed for ue in self._ues.values())} failed,{self._dropped()}"
            f" {sum(ue.waiting for ue in self._ues.values())} waiting, mean E2E of the last 10 s {mean}"
        )

    def _dropped(self) -> str:
        dropped = sum(ue.dropped for ue in self._ues.values())
        return f" {dropped} dropped," if dropped else ""

    def render(self) -> RenderableType:
        """Header and one row per UE."""
        now = time.monotonic()
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("UE")
        for title in ("arrived", "done", "failed", "waiting"):
            table.add_column(title, justify="right")
        table.add_column("cut", max_width=28, no_wrap=True, overflow="ellipsis")
        for title in ("uplink", "mean E2E, 10 s", "p95"):
            table.add_column(title, justify="right")
        for name, ue in sorted(self._ues.items()):
            delays = ue.recent(now)
            rate = ue.rate_bits_per_second
            table.add_row(
                name,
                str(ue.arrived),
                str(ue.completed),
                Text(str(ue.failed), style="red" if ue.failed else ""),
                str(ue.waiting),
                ue.cut or "-",
                f"{rate / 1e6:.2f} Mbit/s" if np.isfinite(rate) else "-",
                f"{np.mean(delays) * 1e3:.0f} ms" if delays else "-",
                f"{np.quantile(delays, 0.95) * 1e3:.0f} ms" if delays else "-",
            )
        header = Text.assemble(("policy ", "dim"), self.policy or "-", ("   slot ", "dim"), str(max(self._slot, 0)))
        header.append(f"   {self._progress_text()}")
        if not self.duration_seconds:
            return Group(header, table)
        top = Table.grid(padding=(0, 3))
        done = min(self._elapsed(), self.duration_seconds)
        top.add_row(header, ProgressBar(total=self.duration_seconds, completed=done, width=40))
        return Group(top, table)
