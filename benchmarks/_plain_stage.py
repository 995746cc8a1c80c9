"""What runs in a container of the slow-down benchmark: one stage over and over, open loop, nothing paced.

Standard input: a line of JSON says what to compute; a second one, after "ready", when and for how long.
"""

import json
import sys
import time

import torch

from controller.contract import cut_from_label
from testbed.inference.partition import load_split_model
from testbed.node.backend import task_input

WARM_UPS = 10


def main() -> None:
    torch.set_num_threads(1)
    asked = json.loads(sys.stdin.readline())
    split = load_split_model(asked["model"], 1)
    partition = split.partition(cut_from_label(asked["cut"]))
    image = task_input(split.model.signature, 1, 0, 0)
    with torch.inference_mode():
        boundary = partition.head(image)

    def stage() -> float:
        start = time.monotonic()
        with torch.inference_mode():
            partition.head(image) if asked["stage"] == "head" else partition.tail([one.clone() for one in boundary])
        return time.monotonic() - start

    free = []
    for _ in range(2 * WARM_UPS):
        time.sleep(0.05)  # a cold inference is what a stage is
        free.append(stage())
    print(json.dumps({"free_seconds": free[WARM_UPS:]}), flush=True)
    order = json.loads(sys.stdin.readline())
    end = time.monotonic() + order["seconds"]
    due, taken = time.monotonic(), []
    while time.monotonic() < end:
        time.sleep(max(0.0, due - time.monotonic()))
        taken.append(stage())
        due = max(due + order["interval_seconds"], time.monotonic())
    print(json.dumps({"stage_seconds": taken}), flush=True)


main()
