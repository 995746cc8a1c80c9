"""The trace player: a program of its own that keeps every wire at the rate that trace and decision give it.

It follows absolute deadlines on one clock, goes on when the controller dies, never blocks on a socket and never
removes a qdisc. It ends by Stop or SIGTERM; the wires keep their last rates.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from controller.service.node_listener import Connection
from controller.service.protocol import Apply, Control, Hello, Reply, SetLink, Start, Stop, Welcome
from testbed.errors import TestbedError
from testbed.node.control import ControlLink, HelloTimer
from testbed.node.last_words import accounted
from testbed.node.sight import Air, Follow, Look, Seen, SightServer, Tune, Tuned
from testbed.programs.player.playback import Playback
from testbed.programs.player.realtime import be_punctual, is_realtime, sleep_until
from testbed.protocol.configs import PlayerConfig, read_config, read_scenario
from testbed.traces.files import load_trace
from testbed.wires.shaping import Shaper

#: Polling stops this long before a deadline: from there on nothing but the clock is looked at.
_POLL_MARGIN_SECONDS = 2e-3
#: So long before a deadline the step is gone through once: 0.1 ms with three wires.
_REHEARSAL_SECONDS = 0.6e-3
_IDLE_POLL_SECONDS = 0.1
_STATISTICS_SECONDS = 1.0
_MOST_EXPLAINED = 10
#: Reading all counters takes about 2 ms with 50 wires; it waits for a gap like this, but not for ever.
_STATISTICS_GAP_SECONDS = 10e-3


def main(config_path: str | Path) -> None:
    """Run the player of a lab. Raises TestbedError when its files or its namespace are not what they should be."""
    config = read_config(Path(config_path), PlayerConfig)
    refused = be_punctual(config.realtime_priority)
    with accounted(config.node, config.lab_directory), zmq.Context() as context:
        link = ControlLink(context, config.node, config.lab_directory)
        try:
            player = Player(config, link)
            with _ending_on_sigterm(player):
                player.run(refused)
        finally:
            link.close()


@contextmanager
def _ending_on_sigterm(player: Player) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: player.stop("SIGTERM"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Player:
    """One lab's player: the loop around a :class:`Playback`."""

    def __init__(self, config: PlayerConfig, link: ControlLink) -> None:
        self._config, self._link = config, link
        self._shaper = Shaper(config.radio_namespace)
        scenario = read_scenario(Path(config.scenario_path))
        kinds = {str(ue.name): ue.channel_kind for ue in scenario.ues}
        traces = {entry.ue: load_trace(Path(entry.trace_path), kinds.get(entry.ue)) for entry in config.links}
        delays = {ln.ue: load_trace(Path(ln.delay_trace_path), "delay") for ln in config.links if ln.delay_trace_path}
        losses = {ln.ue: load_trace(Path(ln.loss_trace_path), "loss") for ln in config.links if ln.loss_trace_path}
        self._playback = Playback(
            scenario, config.links, traces, self._shaper, link.record, delays=delays, losses=losses, seed=config.seed
        )
        self._sight = SightServer(config.lab_directory, [entry.ue for entry in config.links])
        self._poller = zmq.Poller()
        for socket in (link.socket, self._sight):
            self._poller.register(socket, zmq.POLLIN)
        self._slot_seconds = scenario.slot_seconds
        self._next_slot = 0
        self._statistics_due = math.inf
        self._hello = HelloTimer(link, self._say_hello)
        self._stop_reason = ""
        self._refused_requests = 0  # of UEs, about their channels

    def stop(self, reason: str) -> None:
        """End the loop. Safe in a signal handler."""
        self._stop_reason = reason

    def run(self, refused: list[str]) -> None:
        """Until Stop or :meth:`stop`. ``refused``: what the host did not give us, for the log."""
        for text in refused:
            self._link.event("scheduling", text)
        while not self._stop_reason:
            deadline = min(self._playback.next_deadline_seconds(), self._next_slot_seconds())
            self._playback.prepare()
            if deadline - time.monotonic() > _POLL_MARGIN_SECONDS:
                # a message may bring a new clock or void what was prepared: look again after each
                self._serve_until(deadline - _POLL_MARGIN_SECONDS)
                continue
            sleep_until(deadline - _REHEARSAL_SECONDS)
            self._playback.rehearse()
            sleep_until(deadline)
            self._playback.step()
            self._tell_air()
            if deadline >= self._next_slot_seconds():
                self._report()
            self._read_statistics()
            self._serve()  # where deadlines are close together there is no other time for it
        playback = self._playback
        self._link.event(
            "player-stopped",
            f"{self._stop_reason}: {playback.steps} steps, {playback.skipped_steps} skipped, "
            f"{self._link.dropped} records dropped",
        )
        self._playback.close()
        self._shaper.close()
        self._sight.close()

    # ------------------------------------------------------------------------------------------------------ messages

    def _serve_until(self, until_seconds: float) -> None:
        """Handle messages until a time; returns early after one."""
        while not self._stop_reason:
            now = time.monotonic()
            hello_due = self._hello.poll(now)
            left = min(until_seconds, now + _IDLE_POLL_SECONDS, math.inf if hello_due is None else hello_due) - now
            if until_seconds <= now:
                return
            # whole milliseconds: rounded down, the rest is slept
            if self._serve(max(0, int(left * 1000))):
                return
            if left < 1e-3:
                time.sleep(max(0.0, left))

    def _serve(self, wait_milliseconds: int = 0) -> bool:
        """Handle what is there; False if nothing comes."""
        if not self._poller.poll(wait_milliseconds):
            return False
        for asker, request in self._sight.received():
            self._show(asker, request)
        for message in self._link.received():
            self._handle(message)
        self._tell_air()
        return True

    def _tell_air(self) -> None:
        for ue in self._playback.changed_air():
            self._sight.tell(ue, Air(*self._playback.air(ue)))

    def _show(self, asker: Connection, request: Look | Tune | Follow) -> None:
        try:
            if isinstance(request, Follow):
                self._sight.answer(asker, Air(*self._playback.air(request.ue)))
            elif isinstance(request, Look):
                state = self._playback.seen(request.ue, request.task, request.column)
                self._sight.answer(asker, Seen(request.task, request.column, state))
            else:
                rate = self._playback.tune(request.ue, request.task, request.column)
                self._sight.answer(asker, Tuned(request.task, rate))
        except TestbedError as error:
            self._refused_requests += 1
            if self._refused_requests <= _MOST_EXPLAINED:
                self._link.event("malformed", str(error))

    def _handle(self, message: Control) -> None:
        match message:
            case Welcome():
                self._hello.welcomed()
            case Start():
                self._start(message)
            case Apply(decision=decision):
                try:
                    self._playback.decide(decision)
                except TestbedError as error:
                    self._link.event("decision-refused", str(error))
            case SetLink():
                self._set_link(message)
            case Stop(reason=reason):
                self.stop(reason)
            case _:  # Drain: the wires go on until Stop
                return

    def _start(self, start: Start) -> None:
        if start.origin_seconds == self._playback.origin_seconds:
            return  # said again
        if self._config.realtime_priority and not is_realtime():
            self._link.event(
                "scheduling", "the player runs without a real-time priority: steps may be late by milliseconds"
            )
        self._slot_seconds = start.slot_seconds
        self._playback.start(start.origin_seconds)
        late = max(0.0, time.monotonic() - start.origin_seconds)
        self._next_slot = math.ceil(late / start.slot_seconds)
        self._statistics_due = max(start.origin_seconds, time.monotonic())

    def _set_link(self, request: SetLink) -> None:
        try:
            self._playback.command(request)
        except TestbedError as error:
            self._link.send(Reply(ok=False, text=str(error)))
            return
        text = f"link {request.node}: {_said(request)}"
        self._link.event("link", text)
        self._link.send(Reply(ok=True, text=text))

    # ------------------------------------------------------------------------------------------------------- reports

    def _say_hello(self) -> Hello:
        return Hello(
            node=self._config.node, role="player", pid=os.getpid(), stage_tid=threading.get_native_id(), extra_tids=()
        )

    def _next_slot_seconds(self) -> float:
        return self._playback.origin_seconds + self._next_slot * self._slot_seconds

    def _report(self) -> None:
        """At the start of a slot, about the one before; slots that were missed altogether are not reported."""
        self._link.send(self._playback.report(self._next_slot - 1, self._slot_seconds))
        elapsed = time.monotonic() - self._playback.origin_seconds
        self._next_slot = max(self._next_slot + 1, math.ceil(elapsed / self._slot_seconds))

    def _read_statistics(self) -> None:
        now = time.monotonic()
        if now < self._statistics_due:
            return
        gap = min(self._playback.next_deadline_seconds(), self._next_slot_seconds()) - now
        if gap < _STATISTICS_GAP_SECONDS and now < self._statistics_due + _STATISTICS_SECONDS:
            return
        for drops in self._playback.drops():
            self._link.record(drops)
        self._statistics_due = now + _STATISTICS_SECONDS


def _said(request: SetLink) -> str:
    """What a command fixed, in words."""
    parts = [
        (request.rate_up_bits_per_second, "up {:g} Mbit/s", 1e-6),
        (request.rate_down_bits_per_second, "down {:g} Mbit/s", 1e-6),
        (request.delay_seconds, "delay {:g} ms", 1e3),
        (request.jitter_seconds, "jitter {:g} ms", 1e3),
        (request.loss_ratio, "loss {:g} %", 100.0),
    ]
    said = [text.format(value * scale) for value, text, scale in parts if value is not None]
    return ", ".join(said) or "lab, trace and decision again"
