"""Inference while the model uploads: time of a plan and of shares, and latency against every baseline.

Models are AlexNet, ResNet-18 and MobileNetV2 from their shipped profiles, in blocks between single-tensor cuts, and
VGG-16 from its published layer sizes; fp32. Latency of the first query, cold edge.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import numpy as np

from benchmarks._timing import seconds_each
from controller.contract import ModelProfile
from controller.solvers.upload.plan import (
    UploadChain,
    ionn_plans,
    pipelined_seconds,
    plan_upload,
    serial_optimum,
    serial_seconds,
    single_cut,
)
from controller.solvers.upload.shares import UploadUe, allocate_shares, equal_shares, proportional_shares, serial

PROFILES = Path(__file__).parent.parent / "topologies" / "profiles"
DEVICE_FLOP = (1e9, 2e9, 5e9, 10e9)
EDGE_FLOP = 1e12
REPEATS = 30


def profiled(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(FLOP, output bits with the input's first, parameter bits) of the blocks between single-tensor cuts."""
    profile = msgspec.json.decode((PROFILES / f"{name}.json").read_bytes(), type=ModelProfile)
    cuts = [cut[0] for cut in profile.chain_cuts if cut]
    flop, bits, parameters, work, weights = [], [8.0 * profile.nodes[0].output_bytes], [], 0.0, 0.0
    for number, node in enumerate(profile.nodes):
        work, weights = work + 2.0 * node.macs, weights + 8.0 * node.parameter_bytes
        last = number == len(profile.nodes) - 1
        if node.name in cuts[1:] or last:
            flop.append(work)
            bits.append(8.0 * node.output_bytes)
            parameters.append(weights)
            work = weights = 0.0
    return np.array(flop), np.array(bits), np.array(parameters)


def vgg16() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 21 layers of VGG-16: 13 convolutions, 5 poolings, 3 linear layers. Simonyan and Zisserman 2015."""
    flop, bits, parameters = [], [32.0 * 3 * 224 * 224], []
    channels, side = 3, 224
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width == 0:
            side //= 2
            flop.append(4.0 * channels * side * side)
            parameters.append(0.0)
        else:
            flop.append(2.0 * 9 * channels * width * side * side)
            parameters.append(32.0 * (9 * channels * width + width))
            channels = width
        bits.append(32.0 * channels * side * side)
    inputs = channels * side * side
    for outputs in (4096, 4096, 1000):
        flop.append(2.0 * inputs * outputs)
        parameters.append(32.0 * (inputs + 1) * outputs)
        bits.append(32.0 * outputs)
        inputs = outputs
    return np.array(flop), np.array(bits), np.array(parameters)


def one(model: tuple[np.ndarray, np.ndarray, np.ndarray], device_flop: float, rate: float) -> UploadChain:
    flop, bits, parameters = model
    return UploadChain(flop / device_flop, flop / EDGE_FLOP, bits, parameters, rate, rate)


def latencies(chain: UploadChain) -> dict[str, float]:
    """Seconds of the first query under every way of planning."""
    every = np.ones(len(chain.device_seconds), dtype=np.int64)
    best_serial = serial_optimum(chain)
    found = {
        "local": float(chain.device_seconds.sum()),
        "full upload, serial": serial_seconds(chain, every),
        "full upload, pipelined": pipelined_seconds(chain, every),
        "single cut, serial": single_cut(chain).seconds,
        "serial optimum": best_serial.seconds,
        "serial optimum, pipelined": pipelined_seconds(chain, best_serial.sites),
        "IONN, last plan, pipelined": pipelined_seconds(chain, (ionn_plans(chain) or [0 * every])[-1]),
        "PBT-DP": plan_upload(chain).seconds,
        "PBT-DP, beam 8": plan_upload(chain, beam=8).seconds,
    }
    assert found["PBT-DP"] <= min(found.values()) * (1 + 1e-12)
    return found


def single_ues(models: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, model in models.items():
        for device in (*DEVICE_FLOP, 2e10):
            for rate in (20e6, 50e6, 100e6, 400e6, 1e9):
                found = latencies(one(model, device, rate))
                below = 1 - found["PBT-DP"] / found["serial optimum"]
                seconds = {key: round(value, 4) for key, value in found.items()}
                rows.append({"model": name, "device_flop": device, "bits_per_second": rate, "seconds": seconds,
                             "below_serial_optimum": round(below, 4)})  # fmt: skip
    return rows


def shares(models: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[dict[str, object]]:
    """4 to 16 UEs with a random model each share 5 to 80 MHz and 1 TFLOP/s; mean of 3 seeds."""
    rows: list[dict[str, object]] = []
    choice = list(models.values())
    for count in (4, 8, 16):
        for bandwidth in (5e6, 20e6, 80e6):
            values: dict[str, list[float]] = {}
            seconds, moves = [], []
            for seed in range(3):
                rng = np.random.default_rng([seed, count])
                ues = []
                for _ in range(count):
                    flop, bits, parameters = choice[int(rng.integers(len(choice)))]
                    efficiency = float(rng.uniform(2, 6))
                    ues.append(UploadUe(flop / float(rng.choice(DEVICE_FLOP)), flop, bits, parameters, efficiency,
                                        efficiency * bandwidth / count))  # fmt: skip
                by_serial = allocate_shares(ues, bandwidth, EDGE_FLOP, planner=serial)
                began = time.perf_counter()
                ours = allocate_shares(ues, bandwidth, EDGE_FLOP, starts=[by_serial])
                seconds.append(time.perf_counter() - began)
                moves.append(ours.moves)
                each = {
                    "local": float(np.mean([ue.local_seconds for ue in ues])),
                    "serial, equal shares": equal_shares(ues, bandwidth, EDGE_FLOP, serial).seconds.mean(),
                    "pipelined, equal shares": equal_shares(ues, bandwidth, EDGE_FLOP).seconds.mean(),
                    "pipelined, shares by work": proportional_shares(ues, bandwidth, EDGE_FLOP).seconds.mean(),
                    "serial + ARA": by_serial.seconds.mean(),
                    "PBT-DP + ARA": ours.seconds.mean(),
                }
                assert each["PBT-DP + ARA"] <= min(each.values()) * (1 + 1e-12)
                for key, value in each.items():
                    values.setdefault(key, []).append(float(value))
            mean = {key: float(np.mean(value)) for key, value in values.items()}
            below = {key: round(1 - mean["PBT-DP + ARA"] / value, 3) for key, value in mean.items()}
            rows.append({"ues": count, "bandwidth_hz": bandwidth, "seconds": {k: round(v, 4) for k, v in mean.items()},
                         "below": below, "allocation_seconds": round(max(seconds), 3), "moves": moves})  # fmt: skip
    return rows


def plan_time(chain: UploadChain) -> dict[str, float]:
    plan = plan_upload(chain)
    times = seconds_each(lambda: plan_upload(chain), REPEATS)
    return {"plan_ms": 1e3 * float(np.median(times)), "plan_ms_worst": 1e3 * float(times.max()), "labels": plan.labels}


if __name__ == "__main__":
    networks = {"vgg16": vgg16(), **{name: profiled(name) for name in ("alexnet", "resnet18", "mobilenet_v2")}}
    figures = {
        "vgg16": plan_time(one(networks["vgg16"], 2e10, 1e9)),
        "single": single_ues(networks),
        "shares": shares(networks),
    }
    print(json.dumps(figures, indent=1))
