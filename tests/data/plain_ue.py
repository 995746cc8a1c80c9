"""A UE that computes nothing: python plain_ue.py CONTROL_SOCKET NAME. Each slot one task comes, and is done at once."""

import json
import math
import os
import sys
import time

import msgpack
import zmq

STAGES = ("ue_queue", "head", "tx_queue", "uplink", "edge_queue", "tail", "downlink")
path, name = sys.argv[1:]
socket = zmq.Context().socket(zmq.DEALER)
socket.connect(f"ipc://{path}")


def send(kind: str, **fields: object) -> None:
    socket.send(msgpack.packb({"type": kind, **fields}))


def report(slot: int, sequence: int, tasks: int) -> None:
    """About a slot that has ended, in which so many tasks came and were done, each after 20 ms of computing."""
    counts = {"arrivals": tasks, "completions": tasks, "failures": 0, "head_overruns": 0}
    waiting = {"device_queue_tasks": 0, "tx_queue_tasks": 0, "in_flight_tasks": 0, "tx_backlog_bytes": 0}
    sums = {"delay_sum_seconds": 0.02 * tasks, "compute_joules": 0.01 * tasks, "transmit_joules": 0.0}
    stages = dict.fromkeys(STAGES, 0.0) | {"head": 0.02 * tasks}
    send("UeReport", node=name, slot=slot, monotonic_seconds=time.monotonic(), nominal_arrival_rate_per_second=1.0,
         decision_sequence=sequence, stage_sum_seconds=stages, acked_bytes=0, **counts, **waiting, **sums)  # fmt: skip


began = hello_seconds = time.monotonic()
slot, sequence, draining = -1, -1, False
decisions, start = [], None
while True:
    now = time.monotonic()
    if now >= hello_seconds:
        send("Hello", node=name, role="ue", pid=os.getpid(), began_seconds=began)
        hello_seconds = now + 0.2
    while decisions and decisions[0]["valid_from_seconds"] <= now:
        decision = decisions.pop(0)
        sequence = decision["sequence"]
        own = next(ue for ue in decision["ues"] if ue["name"] == name)
        print(json.dumps({"sequence": sequence, "cut": own["cut"], "speed": own["device_speed"]}), flush=True)
    if start and now >= start["origin_seconds"] + (slot + 1) * start["slot_seconds"]:
        report(slot, sequence, 0 if slot < 0 or draining else 1)
        slot += 1
    message = msgpack.unpackb(socket.recv()) if socket.poll(5) else {"type": ""}
    match message["type"]:
        case "Welcome":
            hello_seconds = math.inf
        case "Start":
            start = message
            slot = max(0, math.ceil((now - start["origin_seconds"]) / start["slot_seconds"])) - 1
        case "Apply":
            decisions.append(message["decision"])
        case "Drain":
            draining = True
        case "Stop":
            break
