"""Small built-in scenarios with a synthetic profile, for checks, examples and tests: no torch, no measurement."""

from __future__ import annotations

import msgspec
import numpy as np

from controller.contract import (
    Arrivals,
    CodecTimes,
    Cut,
    Edge,
    GraphNode,
    ModelProfile,
    Observation,
    Radio,
    ReferenceCore,
    Scenario,
    UeName,
    UeObservation,
    UeScenario,
    Uploading,
)
from controller.seeds import Purpose, generator

# name, inputs, fp32 bytes (uint8 for the input), MACs in millions, share of the whole model's time
_GRAPH: tuple[tuple[str, tuple[str, ...], int, int, float], ...] = (
    ("input", (), 150_528, 0, 0.00),
    ("stem", ("input",), 1_605_632, 11, 0.10),
    ("block1", ("stem",), 802_816, 60, 0.22),
    ("block2", ("block1",), 802_816, 70, 0.18),
    ("block2_add", ("block1", "block2"), 401_408, 20, 0.08),
    ("block3", ("block2_add",), 100_352, 80, 0.20),
    ("block4", ("block3",), 62_720, 50, 0.16),
    ("pool", ("block4",), 5_120, 1, 0.02),
    ("logits", ("pool",), 4_000, 1, 0.04),
)
_CHAIN: tuple[Cut, ...] = (
    ("input",),
    ("stem",),
    ("block1",),
    ("block2_add",),
    ("block3",),
    ("block4",),
    ("pool",),
    (),
)


def example_profile(total_seconds: float = 0.06) -> ModelProfile:
    """A small image network with one skip connection: 9 values, 8 single-tensor cuts.

    ``total_seconds`` is the time of the whole model on the reference core. The head times are the prefix sums of the
    node times; a raw image is smaller than the first feature maps, as in real networks.
    """
    names = [row[0] for row in _GRAPH]
    node_seconds = tuple(total_seconds * row[4] for row in _GRAPH)
    ends = [len(names) if not cut else names.index(cut[0]) + 1 for cut in _CHAIN]
    heads = tuple(float(sum(node_seconds[:end])) for end in ends)
    tails = tuple(float(sum(node_seconds[end:])) for end in ends)
    sizes = {row[0]: row[2] for row in _GRAPH}
    crossing = [sum(sizes[name] for name in cut if name != "input") for cut in _CHAIN]
    none = tuple(0.0 for _ in _CHAIN)
    return ModelProfile(
        version=1,
        model="example",
        nodes=tuple(
            GraphNode(
                name=name,
                inputs=inputs,
                output_shape=(size if name == "input" else size // 4,),
                output_bytes=size,
                macs=macs * 1_000_000,
                parameter_bytes=macs * 10_000,
            )
            for name, inputs, size, macs, _ in _GRAPH
        ),
        chain_cuts=_CHAIN,
        head_seconds=heads,
        tail_seconds=tails,
        node_seconds=node_seconds,
        codecs={
            "fp32": CodecTimes(encode_seconds=none, decode_seconds=none),
            "fp16": CodecTimes(
                encode_seconds=tuple(2e-11 * size for size in crossing),
                decode_seconds=tuple(2e-11 * size for size in crossing),
            ),
            "uint8": CodecTimes(
                encode_seconds=tuple(4e-10 * size for size in crossing),
                decode_seconds=tuple(2e-10 * size for size in crossing),
            ),
        },
        result_bytes=4_000,
        reference_core=ReferenceCore(fraction=0.5, host_cpu="synthetic", torch_version="none"),
        holdout_error_ratio=0.0,
    )


def example_scenario(ues: int = 3, *, slot_seconds: float = 0.5, energy_budget_joules: float = 0.1) -> Scenario:
    """A lab of ``ues`` slow devices with uneven channels: spectrum and edge grow with ``ues`` above three.

    Raises ValueError for less than one UE.
    """
    if ues < 1:
        raise ValueError(f"a scenario needs at least one UE, got {ues}")
    profile = example_profile()
    scale = max(1.0, ues / 3)
    return Scenario(
        name="example",
        slot_seconds=slot_seconds,
        radio=Radio(uplink_hz=8e6 * scale, downlink_hz=8e6 * scale, noise_watts_per_hz=10**-19.5),
        edge=Edge(cpus=0.8 * scale),
        ues=tuple(
            UeScenario(
                name=UeName(f"ue{index}"),
                profile=profile,
                arrivals=Arrivals(process="poisson", rates_per_second=(1.0,)),
                max_speed=0.1,
                compute_watts=1.0,
                transmit_watts=0.3,
                receive_watts=0.1,
                energy_budget_joules=energy_budget_joules,
                weight=1.0,
                input_codec="uint8",
                boundary_codec="uint8",
                channel_kind="gain",
                mean_gain=1e-11 / 4 ** (index % 3),
                fading="rayleigh",
            )
            for index in range(ues)
        ),
    )


def with_access_points(scenario: Scenario, count: int, leakage_ratio: float = 0.01) -> Scenario:
    """A lab whose UEs belong to ``count`` access points in turn, each with all of the spectrum and its own power."""
    radio = msgspec.structs.replace(scenario.radio, access_points=count, leakage_ratio=leakage_ratio)
    ues = tuple(msgspec.structs.replace(ue, access_point=index % count) for index, ue in enumerate(scenario.ues))
    return msgspec.structs.replace(scenario, radio=radio, ues=ues)


def example_labs() -> tuple[Scenario, ...]:
    """Labs of every kind that a policy can meet, for ``check_policy``: see there."""
    replace = msgspec.structs.replace
    base = example_scenario(3)
    other = _shorter(example_profile(0.15))
    mixed = replace(
        base,
        name="mixed",
        ues=(base.ues[0], replace(base.ues[1], profile=other, boundary_codec="fp32", max_speed=0.3), base.ues[2]),
    )
    rates = replace(base, name="rates", ues=tuple(replace(ue, channel_kind="rate", mean_gain=8e6) for ue in base.ues))
    radio = replace(base.radio, access="noma", subchannels=2, users_per_subchannel=2)
    ratios = ((1.0, 0.5), (0.7, 1.2), (1.1, 0.9))
    noma = replace(
        base,
        name="noma",
        radio=radio,
        ues=tuple(
            replace(ue, subchannel_ratios_up=ratio, subchannel_ratios_down=ratio)
            for ue, ratio in zip(base.ues, ratios, strict=True)
        ),
    )
    uploading = replace(
        base,
        name="uploading",
        uploading=Uploading(cache="keep", memory_bytes=4_000_000),
        ues=tuple(replace(ue, boundary_codec="fp32") for ue in base.ues),  # parameters go up as they are
    )
    points = msgspec.structs.replace(with_access_points(example_scenario(5), 2), name="access-points")
    return (example_scenario(1), base, example_scenario(12), mixed, rates, noma, points, uploading)


def _shorter(profile: ModelProfile) -> ModelProfile:
    """Another model: fewer places to cut."""
    keep = [at for at, cut in enumerate(profile.chain_cuts) if cut not in (("block1",), ("pool",))]
    codecs = {
        name: CodecTimes(tuple(times.encode_seconds[at] for at in keep), tuple(times.decode_seconds[at] for at in keep))
        for name, times in profile.codecs.items()
    }
    return msgspec.structs.replace(
        profile,
        model="another",
        chain_cuts=tuple(profile.chain_cuts[at] for at in keep),
        head_seconds=tuple(profile.head_seconds[at] for at in keep),
        tail_seconds=tuple(profile.tail_seconds[at] for at in keep),
        codecs=codecs,
    )


def example_observation(scenario: Scenario, slot: int = 0, seed: int = 0) -> Observation:
    """What a policy could see at the start of ``slot``: Rayleigh gains around each UE's mean, short queues.

    Deterministic in (slot, seed). A UE of channel kind "rate" gets a rate in the place of a gain.
    """
    rng = generator(seed, Purpose.CHANNEL_UP, slot + 1)
    ues = []
    for ue in scenario.ues:
        up, down, mean_up, mean_down = (float(x) for x in np.maximum(rng.exponential(size=4), 1e-3) * ue.mean_gain)
        queued = int(rng.integers(0, 4))
        ues.append(
            UeObservation(
                name=ue.name,
                gain_up=(up,),
                gain_down=(down,),
                mean_gain_up=(mean_up,),
                mean_gain_down=(mean_down,),
                nominal_arrival_rate_per_second=ue.arrivals.mean_rate_per_second,
                measured_arrival_rate_per_second=float(rng.poisson(1.0)) / scenario.slot_seconds,
                device_queue_tasks=queued,
                in_flight_tasks=queued,
                decision_sequence=slot - 1,
            )
        )
    return Observation(slot=slot, monotonic_seconds=1000.0 + slot * scenario.slot_seconds, ues=tuple(ues))
