"""Times of cuts of several tensors: sums that agree with the profile wherever it was measured."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from controller.contract import MeasuredCut, ModelProfile
from controller.model.cut_times import NodeWork, estimated_seconds
from controller.model.delay import stage_work
from testbed.inference.profiles import read_profile

PROFILES = Path(__file__).parents[3] / "topologies" / "profiles"


@pytest.fixture(scope="module")
def profile() -> ModelProfile:
    return read_profile(PROFILES / "resnet18.json")


def branching_cut(profile: ModelProfile) -> tuple[str, ...]:
    """Both inputs of the third addition."""
    return [node.inputs for node in profile.nodes if len(node.inputs) == 2][2]


def test_sums_are_the_profiles_at_single_tensor_cuts(profile: ModelProfile) -> None:
    work = NodeWork.of(profile, "uint8", "uint8")
    for cut in profile.chain_cuts[:-1]:
        assert work.estimate(profile, cut) == pytest.approx(stage_work(profile, cut, "uint8"), rel=0.03, abs=2e-5)
    head, tail = estimated_seconds(profile, profile.chain_cuts[7])
    assert (head, tail) == pytest.approx((profile.head_seconds[7], profile.tail_seconds[7]), rel=1e-6)


def test_a_measured_cut_counts_instead_of_its_estimate(profile: ModelProfile) -> None:
    cut = branching_cut(profile)
    assert len(cut) == 2
    head, tail = stage_work(profile, cut, "uint8")
    estimate = estimated_seconds(profile, cut)
    measured = MeasuredCut(cut, 1.1 * estimate[0], 0.9 * estimate[1], *estimate)
    found = stage_work(msgspec.structs.replace(profile, measured_cuts=(measured,)), cut, "uint8")
    assert found == pytest.approx((head + 0.1 * estimate[0], tail - 0.1 * estimate[1]))


def test_another_device_keeps_its_own_heads(profile: ModelProfile) -> None:
    cut = branching_cut(profile)
    slow = msgspec.structs.replace(profile, device_node_seconds=tuple(3 * s for s in profile.node_seconds))
    estimate = estimated_seconds(profile, cut)
    measured = MeasuredCut(cut, 2 * estimate[0], estimate[1], *estimate)
    found = stage_work(msgspec.structs.replace(slow, measured_cuts=(measured,)), cut, "fp32")
    assert found == stage_work(slow, cut, "fp32")
    assert found[0] > 2.9 * estimate[0]


def test_bytes_are_those_of_the_codec(profile: ModelProfile) -> None:
    work = NodeWork.of(profile, "uint8", "fp16")
    for index, node in enumerate(profile.nodes):
        assert work.boundary_bytes[index] == profile.boundary_bytes((node.name,), "fp16")
