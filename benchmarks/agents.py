"""Figures of the agents as JSON: tensor transport over loopback, and stage times while everything is busy.

    python -m benchmarks.agents [transport|stages ...]

Runs for about a minute. Have the machine quiet. As root the stages run SCHED_FIFO, as in a lab; otherwise ordinary.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zmq

from benchmarks._links import row
from controller.contract import Arrivals, Decision, UeDecision
from controller.model.arrivals import ArrivalProcess
from controller.service.protocol import Apply, Start
from testbed.inference import tensors
from testbed.inference.profiles import read_profile
from testbed.node import task_frames
from testbed.node.arrivals import ArrivalSchedule
from testbed.node.backend import CpuBackend
from testbed.node.control import DecisionBox
from testbed.node.ledger import Task
from testbed.node.pacing import DeadlineThread
from testbed.node.process import SWITCH_INTERVAL_SECONDS
from testbed.node.transport import Assembler, ReceivedTask, TaskStream
from testbed.programs.edge.edge_compute import ComputeThread
from testbed.programs.ue.head_device import HeadDevice
from testbed.programs.ue.ue_stage import StageThread
from testbed.protocol.configs import UeConfig

SIZES_BYTES = (65_536, 802_816, 1_605_632, 3_211_264)
WHOLE = 1 << 30  # of a chunk: a task in one message
PROFILE = Path(__file__).parents[1] / "topologies" / "profiles" / "mobilenet_v2.json"
MODEL = "torchvision:mobilenet_v2"
SPEED, EDGE_SHARE, UES = 0.25, 0.8 / 3, 3
CUT = ("features_7_conv_0_1",)
SECONDS = 20.0

Context = multiprocessing.get_context("spawn")


# --------------------------------------------------------------------------------------------------------- transport


def _receive(pipe: Connection) -> None:
    """Assemble what comes; answer every task with the time of its last byte."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    pipe.send(router.bind_to_random_port("tcp://127.0.0.1"))
    assembler = Assembler(lambda header: None)
    while True:
        frames = router.recv_multipart(copy=False)
        now = time.monotonic()
        if len(frames) == 2:
            return
        _, done = assembler.feed([frame.buffer for frame in frames[1:]], now)
        if done is not None:
            tensors.unpack(done.header, done.buffers)
            answer = task_frames.encode(task_frames.Ack(done.task, 0, time.monotonic()))
            router.send_multipart([bytes(frames[0].buffer), answer])


def transport() -> list[dict[str, Any]]:
    """From a tensor to a tensor in another process: pack, send, receive, unpack. One way, by the shared clock."""
    mine, other = Context.Pipe()
    process = Context.Process(target=_receive, args=(other,), daemon=True)
    process.start()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(f"tcp://127.0.0.1:{mine.recv()}")
    rows = []
    for size in SIZES_BYTES:
        tensor = torch.rand(size // 4)
        row: dict[str, float] = {"bytes": size}
        for label, limit in (("whole", WHOLE), ("chunks_64k", 45 * task_frames.SEGMENT_BYTES)):
            latencies = []
            for number in range(220):
                start = time.monotonic()
                _send(dealer, number, tensor, limit)
                ack = task_frames.decode_down(dealer.recv())
                latencies.append(ack.received_seconds - start)
            count, start = 300, time.monotonic()
            for number in range(count):
                _send(dealer, number, tensor, limit)
                if number >= 4:
                    dealer.recv()
            for _ in range(4):
                dealer.recv()
            row[f"{label}_one_way_seconds_p50"] = float(np.median(latencies[20:]))
            row[f"{label}_one_way_bytes_per_second"] = size / float(np.median(latencies[20:]))
            row[f"{label}_pipelined_bytes_per_second"] = size * count / (time.monotonic() - start)
        rows.append(row)
    dealer.send(b"")
    process.join(5)
    context.destroy(linger=0)
    return rows


def _send(dealer: zmq.Socket[bytes], number: int, tensor: torch.Tensor, limit: int) -> None:
    stream = TaskStream(number, *tensors.pack(number, ("x",), [tensor], "fp32"))
    while not stream.finished:
        message = stream.next_chunk(limit)
        dealer.send_multipart(message, copy=limit != WHOLE)


# ------------------------------------------------------------------------------------------------------------ stages


def _fifo(tid: int, priority: int) -> bool:
    try:
        os.sched_setscheduler(tid, os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        return False
    return True


def _ue(index: int, origin: float, pipe: Connection) -> None:
    """Heads back to back at a quarter of a reference core."""
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    arrivals = Arrivals("poisson", (200.0,))
    config = UeConfig(
        lab="bench", run_id="", node="ue", lab_directory="", ue_index=index, seed=1, model=MODEL,
        profile_path=str(PROFILE), edge_endpoint="", local_address="", arrivals=arrivals,
        arrival_file_times_seconds=(), slot_seconds=1.0, input_codec="uint8", boundary_codec="fp32", max_speed=SPEED,
        compute_watts=1.0, transmit_watts=0.0, task_timeout_seconds=math.inf, round_trip_seconds=0.0,
    )  # fmt: skip
    backend = CpuBackend(MODEL, 1, read_profile(PROFILE))
    backend.prepare_heads([CUT])
    decisions, deadlines = DecisionBox(), DeadlineThread("deadlines")
    own = UeDecision("ue", CUT, SPEED, 0.0, 0.0, 0.0)  # type: ignore[arg-type]
    decisions.put(Apply(Decision(0, 0, 0.0, (own,))))
    done: list[Task] = []
    device = HeadDevice(config, backend, deadlines, done.append)
    stage = StageThread(config, backend.split.model.signature, decisions, device, done.append)
    deadlines.start()
    stage.start()
    realtime = _fifo(stage.tid, 5) and _fifo(deadlines.tid, 6)
    schedule = ArrivalSchedule(ArrivalProcess(arrivals, 1.0, 1, index), Start(origin, 1.0, SECONDS))
    schedule.extend(origin + SECONDS)
    stage.schedule(schedule, 0)
    time.sleep(max(0.0, origin + SECONDS - time.monotonic()))
    stage.stop()
    ended = [task for task in done if task.head_end_seconds > origin]
    errors = [(task.head_end_seconds - task.head_start_seconds) / task.head_target_seconds - 1 for task in ended]
    target = ended[0].head_target_seconds
    compute = float(np.median([task.head_compute_seconds for task in ended]))
    pipe.send(("head", realtime, target, compute, errors, sum(task.head_overrun for task in ended)))


def _edge(origin: float, pipe: Connection) -> None:
    """Tails of three UEs back to back, at 0.8 reference cores together."""
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    backend = CpuBackend(MODEL, 1, read_profile(PROFILE))
    backend.prepare_tails([CUT])
    header, buffers = backend.head(0, CUT, "fp32", backend.split.model.probe)
    decisions, deadlines = DecisionBox(), DeadlineThread("deadlines")
    names = [f"ue{index}" for index in range(UES)]
    shares = tuple(UeDecision(name, CUT, SPEED, 0.0, 0.0, EDGE_SHARE) for name in names)  # type: ignore[arg-type]
    decisions.put(Apply(Decision(0, 0, 0.0, shares)))
    results: list[task_frames.Result] = []
    done = threading.Event()

    def add(name: str) -> None:
        compute.add(name, ReceivedTask(0, tensors.decode_header(header), CUT, buffers, time.monotonic()))

    def answered(name: str, result: task_frames.Result, logits: memoryview) -> None:
        results.append(result)
        if time.monotonic() < origin + SECONDS:
            add(name)
        else:
            done.set()

    compute = ComputeThread(dict.fromkeys(names, backend), 0.8, decisions, deadlines, answered)
    deadlines.start()
    compute.start()
    realtime = _fifo(compute.tid, 5) and _fifo(deadlines.tid, 6)
    time.sleep(max(0.0, origin - time.monotonic()))
    for name in names:
        add(name)
    done.wait()
    overruns = sum(compute.take_counts(name)[1] for name in names)
    errors = [(r.tail_end_seconds - r.tail_start_seconds) / r.tail_target_seconds - 1 for r in results]
    seconds = float(np.median([result.tail_compute_seconds for result in results]))
    pipe.send(("tail", realtime, results[0].tail_target_seconds, seconds, errors, overruns))


def stages() -> list[dict[str, Any]]:
    """Three UEs at 0.25 and an edge at 0.8, never idle: stage time against its target."""
    origin = time.monotonic() + 8.0
    pipes, processes = [], []
    for index in range(UES + 1):
        mine, other = Context.Pipe()
        arguments = (index, origin, other) if index < UES else (origin, other)
        process = Context.Process(target=_ue if index < UES else _edge, args=arguments)
        process.start()
        pipes.append(mine)
        processes.append(process)
    rows: list[dict[str, Any]] = []
    for pipe, process in zip(pipes, processes, strict=True):
        kind, realtime, target, compute, errors, overruns = pipe.recv()
        process.join(5)
        process.kill()
        p50, p90, p99 = (float(value) for value in np.quantile(np.abs(errors), [0.5, 0.9, 0.99]))
        rows.append(
            {
                "stage": kind, "realtime": realtime, "stages": len(errors), "target_seconds": target,
                "compute_seconds_p50": compute, "error_p50": p50, "error_p90": p90, "error_p99": p99,
                "overrun_ratio": overruns / len(errors),
            }
        )  # fmt: skip
    return rows


MEASURED: dict[str, Callable[[], list[dict[str, Any]]]] = {"transport": transport, "stages": stages}


def figures(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows for the tables of the documentation."""
    rows = []
    for one in found.get("transport", []):
        size = one["bytes"]
        if size < 100_000:
            rows.append(
                row(
                    f"tensor of {size >> 10} KiB over loopback, one way",
                    one["chunks_64k_one_way_seconds_p50"],
                    "s",
                    0.3e-3,
                )
            )
        else:
            rate = one["whole_one_way_bytes_per_second"]
            rows.append(row(f"tensor of {size / 1e6:.1f} MB over loopback (at least 2 GB/s)", rate / 1e9, "GB/s"))
    kinds = sorted({str(one["stage"]) for one in found.get("stages", [])})
    for kind in kinds:
        mine = [one for one in found["stages"] if one["stage"] == kind]
        what = f"{kind}s, 3 UEs at {SPEED} and an edge at 0.8, never idle"
        limits = (0.003, 0.01, 0.01) if all(one["realtime"] for one in mine) else (0.02, 0.15, 0.10)
        names = ("error_p50", "error_p90", "overrun_ratio")
        rows += [
            row(f"{what}: {name.replace('_', ' ')}", max(float(one[name]) for one in mine), "ratio", limit)
            for name, limit in zip(names, limits, strict=True)
        ]
    return rows


if __name__ == "__main__":
    results = {name: MEASURED[name]() for name in sys.argv[1:] or MEASURED}
    print(json.dumps({**results, "figures": figures(results)}, indent=1))
