"""A lab without computation: the real controller program over real ipc sockets, and agents that only report."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType

import zmq

from controller.contract import STAGES, Scenario
from controller.policies.examples import example_scenario
from controller.service.protocol import (
    Apply,
    Control,
    Delegation,
    Drain,
    EdgeReport,
    EdgeUeReport,
    Hello,
    LinkState,
    PlayerReport,
    Question,
    Reply,
    SetLink,
    Start,
    Status,
    Stop,
    UeReport,
    decode_control,
    encode,
)
from testbed.mechanisms.delegation.adviser import Adviser
from testbed.protocol.client import ControlClient
from testbed.protocol.configs import ControllerConfig, write_config, write_scenario
from testbed.protocol.record import Record
from testbed.protocol.records import Event, SlotRecord, decode_record
from testbed.protocol.sockets import control_endpoint, make_folder, records_endpoint

POLICIES = Path(__file__).parent / "odd_policies"


class FakeLab:
    """Starts the program in a directory of its own and plays all of its agents from one thread.

    ``silent`` maps a node to the slots that it does not report, ``weights`` to what its Hello says of them. Each UE has
    one arrival and one completion per slot; one task stays in flight until ``drain_slots`` reports after Drain.
    ``elsewhere`` names UEs, not the first, that somebody else plays.
    """

    def __init__(
        self,
        directory: Path,
        *,
        policy: str = "random",
        options: str = "{}",
        scenario: Scenario | None = None,
        deadline_seconds: float = 0.05,
        silent: Callable[[str, int], bool] = lambda node, slot: False,
        drain_slots: int = 1,
        weights: Mapping[str, dict[str, str]] = MappingProxyType({}),
        elsewhere: Collection[str] = (),
    ) -> None:
        self.scenario = scenario or example_scenario(2, slot_seconds=0.1)
        self.directory, self.silent, self._drain_slots = directory, silent, drain_slots
        self._weights = weights
        self.ues = [str(ue.name) for ue in self.scenario.ues if ue.name not in elsewhere]
        self.received: dict[str, list[Control]] = {name: [] for name in (*self.ues, "edge", "player")}
        self.records: list[Record] = []
        self._end = threading.Event()
        (directory / "ipc").mkdir(parents=True)
        write_scenario(self.scenario, directory / "scenario.json")
        config = ControllerConfig(
            lab=directory.name,
            run_id="run-1",
            node="controller",
            lab_directory=str(directory),
            scenario_path=str(directory / "scenario.json"),
            policy=policy,
            policy_options_json=options,
            seed=7,
            expected=(*self.received, *elsewhere),
            decide_deadline_seconds=deadline_seconds,
        )
        write_config(config, directory / "controller.json")
        self._log = (directory / "controller.log").open("w")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from testbed.programs.controller.controller import main; main(sys.argv[1])",
                str(directory / "controller.json"),
            ],
            env={**os.environ, "PYTHONPATH": str(POLICIES)},
            stderr=self._log,
        )
        self.client = ControlClient(directory)
        self._thread = threading.Thread(target=self._play)

    def __enter__(self) -> FakeLab:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self.client.__exit__(None, None, None)
        self.process.kill()
        self.process.wait()
        self._log.close()

    def wait(self, condition: Callable[[Status], bool], seconds: float = 20.0) -> Status:
        """The first status that fulfils the condition. The program itself may take seconds to import."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.client.status(seconds)
            if condition(status):
                return status
            assert time.monotonic() < deadline, f"still {status}"
            time.sleep(0.02)

    def wait_end(self, seconds: float = 20.0) -> int:
        """Exit code of the program, after everything that it sent was received."""
        code = self.process.wait(seconds)
        time.sleep(0.2)
        return code

    def events(self, kind: str) -> list[Event]:
        return [record for record in list(self.records) if isinstance(record, Event) and record.kind == kind]

    def slots(self) -> list[SlotRecord]:
        return [record for record in list(self.records) if isinstance(record, SlotRecord)]

    def decisions(self, node: str) -> list[Apply]:
        return [message for message in list(self.received[node]) if isinstance(message, Apply)]

    # --------------------------------------------------------------------------------------------------- the agents

    def _play(self) -> None:
        context = zmq.Context()
        pull = context.socket(zmq.PULL)
        make_folder(records_endpoint(self.directory, "controller"))
        pull.bind(records_endpoint(self.directory, "controller"))
        poller = zmq.Poller()
        poller.register(pull, zmq.POLLIN)
        agents = {}
        advisers: dict[str, Adviser] = {}
        for name in self.received:
            dealer = context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.ROUTING_ID, name.encode())
            dealer.connect(control_endpoint(self.directory, name))
            role = name if name in ("edge", "player") else "ue"
            dealer.send(encode(Hello(node=name, role=role, pid=os.getpid(), weights=self._weights.get(name, {}))))
            poller.register(dealer, zmq.POLLIN)
            agents[name] = dealer
        start: Start | None = None
        slot, drained = -1, 0
        while not self._end.is_set():
            poller.poll(5)
            while pull.poll(0):
                self.records.append(decode_record(pull.recv()))
            for name, dealer in agents.items():
                while dealer.poll(0):
                    message = decode_control(dealer.recv())
                    self.received[name].append(message)
                    if isinstance(message, Start):
                        start = message
                    if isinstance(message, Delegation):
                        advisers.setdefault(name, Adviser(name)).accept(message)
                    if isinstance(message, Question):
                        dealer.send(encode(advisers[name].answer(message)))
                    if isinstance(message, SetLink):
                        dealer.send(encode(Reply(ok=True, text=f"link of {message.node} set")))
            if start is None or self._stopped():
                continue
            while time.monotonic() >= start.origin_seconds + (slot + 1) * start.slot_seconds:
                draining = any(isinstance(message, Drain) for message in self.received[self.ues[0]])
                drained += draining
                self._report(agents, slot, 0 if drained >= self._drain_slots else 1)
                slot += 1
        for socket in (pull, *agents.values()):
            socket.close(linger=0)
        context.term()

    def _stopped(self) -> bool:
        return any(isinstance(message, Stop) for message in self.received[self.ues[0]])

    def _report(self, agents: dict[str, zmq.Socket[bytes]], slot: int, in_flight: int) -> None:
        now = time.monotonic()
        for name in self.ues:
            if not self.silent(name, slot):
                agents[name].send(encode(ue_report(name, slot, now, in_flight_tasks=in_flight)))
        if not self.silent("edge", slot):
            agents["edge"].send(encode(edge_report(self.ues, slot, now)))
        if not self.silent("player", slot):
            agents["player"].send(encode(player_report(self.ues, slot, now)))


def ue_report(
    node: str, slot: int, monotonic_seconds: float = 0.0, *, arrivals: int = 1, in_flight_tasks: int = 0
) -> UeReport:
    done = int(slot >= 0)
    return UeReport(
        node=node,
        slot=slot,
        monotonic_seconds=monotonic_seconds,
        nominal_arrival_rate_per_second=1.0,
        arrivals=arrivals * done,
        completions=done,
        failures=0,
        device_queue_tasks=2,
        tx_queue_tasks=1,
        in_flight_tasks=in_flight_tasks,
        tx_backlog_bytes=1000,
        decision_sequence=max(slot, 0),
        delay_sum_seconds=0.25 * done,
        stage_sum_seconds=dict.fromkeys(STAGES, 0.0) | {"head": 0.25 * done},
        compute_joules=0.5 * done,
        transmit_joules=0.25 * done,
        head_overruns=0,
        acked_bytes=0,
    )


def edge_report(ues: list[str], slot: int, monotonic_seconds: float = 0.0) -> EdgeReport:
    return EdgeReport(
        slot=slot,
        monotonic_seconds=monotonic_seconds,
        ues=tuple(
            EdgeUeReport(
                node=name,
                edge_queue_tasks=3,
                edge_backlog_seconds=0.125,
                tails=1,
                tail_overruns=1,
                decision_sequence=0,
            )
            for name in ues
        ),
    )


def player_report(ues: list[str], slot: int, monotonic_seconds: float = 0.0, gain: float = 1e-11) -> PlayerReport:
    return PlayerReport(
        slot=slot,
        monotonic_seconds=monotonic_seconds,
        links=tuple(
            LinkState(
                node=name,
                gain_up=(gain * (slot + 2),),
                gain_down=(gain,),
                mean_gain_up=(gain,),
                mean_gain_down=(gain,),
                rate_up_bits_per_second=1e6,
                rate_down_bits_per_second=1e6,
                mean_rate_up_bits_per_second=2e6,
            )
            for name in ues
        ),
    )
