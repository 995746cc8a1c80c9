"""Wires on this kernel: the cross-connect, the rate, two labs side by side, repair."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.errors import HostError, TestbedError
from testbed.runtime.host import namespaces
from testbed.runtime.host.namespaces import run_inside
from testbed.runtime.host.pauses import PauseProbe
from testbed.wires import capabilities, plumbing
from testbed.wires.impairment import Impairment
from testbed.wires.netns import batch
from testbed.wires.probes import Counter, Flow
from testbed.wires.shaping import LEAF_HANDLE, Shaper
from testbed.wires.wire import UE_INTERFACE, WireSpec
from tests.emulation.links_lab import assert_carried, wired

pytestmark = pytest.mark.root


def spec(index: int, **more: object) -> WireSpec:
    return WireSpec(index, f"ue{index}", 5e6, 10e6, **more)  # type: ignore[arg-type]


def inside(namespace: str, *command: str) -> str:
    answer = run_inside(namespace, lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    return answer.stdout


def reaches(namespace: str, address: str) -> bool:
    return ", 0% packet loss" in inside(namespace, "ping", "-c", "2", "-i", "0.05", "-W", "1", address)


def test_a_wire_joins_a_ue_and_the_edge_and_nobody_else() -> None:
    before = Path("/proc/net/dev").read_text()
    host = [line.split(":")[0] for line in before.splitlines()]
    wires = [spec(0), spec(1)]
    with wired("li-join", wires) as lab, wired("li-join2", wires) as other:
        assert [line.split(":")[0] for line in Path("/proc/net/dev").read_text().splitlines()] == host
        for wire in wires:
            assert reaches(lab.name(wire.ue), wire.edge_address)
            assert reaches(lab.name("edge"), wire.ue_address)
        assert not reaches(lab.name("ue0"), wires[1].edge_address)
        assert not reaches(lab.name("ue0"), wires[1].ue_address)
        # the other lab has the same addresses and saw none of it
        for node in ("ue0", "ue1", "edge"):
            links = json.loads(inside(other.name(node), "ip", "-s", "-json", "link"))
            assert all(link["stats64"]["rx"]["packets"] == 0 for link in links)


def test_the_ends_are_as_the_wire_wants_them() -> None:
    with wired("li-ends", [spec(3, congestion_control="reno")]) as lab:
        route = json.loads(inside(lab.name("ue3"), "ip", "-json", "route", "get", lab.wires[0].edge_address))
        assert route[0]["dev"] == "eth1"
        assert "congctl reno" in inside(lab.name("ue3"), "ip", "route")
        assert "congctl reno" in inside(lab.name("edge"), "ip", "route")
        link = json.loads(inside(lab.name("ue3"), "ip", "-details", "-json", "link", "show", "eth1"))[0]
        assert (link["mtu"], link["gso_max_segs"], link["gso_max_size"]) == (1500, 1, 1514)
        neighbour = json.loads(inside(lab.name("ue3"), "ip", "-json", "neighbour"))[0]
        assert neighbour["state"] == ["PERMANENT"]
        assert inside(lab.name("ue3"), "cat", "/proc/sys/net/ipv4/tcp_slow_start_after_idle").strip() == "0"
        assert inside(lab.name("ue3"), "ip", "-6", "address") == ""


def test_shapers_change_in_place() -> None:
    with wired("li-shape", [spec(0)]) as lab:
        shaper = Shaper(lab.name("radio"))
        shaper.set_rates({"e0": 1e6, "u0": 2.5e9})
        shaper.set_leaf_limits({"e0": 12_345})
        leaves = shaper.leaves(["e0", "u0"])
        assert leaves["e0"].handle == LEAF_HANDLE
        assert (leaves["e0"].limit_bytes, leaves["u0"].limit_bytes) == (12_345, 2 << 20)
        shown = inside(lab.name("radio"), "tc", "class", "show", "dev", "e0")
        assert "rate 1Mbit ceil 1Mbit" in shown
        assert "rate 2500Mbit ceil 2500Mbit" in inside(lab.name("radio"), "tc", "class", "show", "dev", "u0")
        shaper.set_rates({"u0": 80e9})  # more than 32 bits of bytes a second
        assert "rate 80Gbit ceil 80Gbit" in inside(lab.name("radio"), "tc", "class", "show", "dev", "u0")
        with pytest.raises(TestbedError, match="no interface 'e9'"):
            shaper.set_rates({"e9": 1e6})
        shaper.close()


def test_a_change_that_the_kernel_refuses_is_an_error_and_the_others_are_in_force() -> None:
    with wired("li-refuse", [spec(0), spec(1)]) as lab:
        shaper = Shaper(lab.name("radio"))
        run_inside(lab.name("radio"), lambda: batch("tc", ["qdisc del dev e0 root"]))
        with pytest.raises(TestbedError, match="refused 1 of 2 changes; the first is number 0"):
            shaper.set_rates({"e0": 1e6, "e1": 3e6})
        assert "rate 3Mbit" in inside(lab.name("radio"), "tc", "class", "show", "dev", "e1")
        shaper.close()


def test_what_is_broken_is_found_and_repaired() -> None:
    wires = [spec(0), spec(1), spec(2)]
    with wired("li-repair", wires[:2]) as lab:
        assert all(state.whole for state in plumbing.inspect(lab.name("radio")).values())
        run_inside(lab.name("radio"), lambda: batch("tc", ["qdisc del dev u1 root"]))
        assert not plumbing.inspect(lab.name("radio"))[1].whole
        namespaces.create([lab.name("ue2")])
        try:
            repaired = plumbing.repair(wires, lab.name)
            assert [wire.index for wire in repaired] == [1, 2]
            assert plumbing.repair(wires, lab.name) == []
            assert all(reaches(lab.name(wire.ue), wire.edge_address) for wire in wires)
        finally:
            namespaces.delete(lab.name("ue2"))


def test_what_the_kernel_lacks_is_said_before_anything_is_made() -> None:
    with wired("li-lack", []) as lab:
        namespaces.create([lab.name("ue0")])
        try:
            with pytest.raises(HostError, match=r"kernel .* has .*cubic.*modprobe tcp_fast"):
                plumbing.connect([spec(0, congestion_control="fast")], lab.name)
            if not capabilities.probe().netem:
                asked = Impairment(delay_seconds=0.01, reorder_ratio=0.1)
                with pytest.raises(HostError, match=r"reorder .*was asked for: netem|There are two ways"):
                    plumbing.connect([spec(0, up=asked)], lab.name)
            assert plumbing.inspect(lab.name("radio")) == {}
        finally:
            namespaces.delete(lab.name("ue0"))


def test_a_namespace_that_is_not_there_is_named() -> None:
    with pytest.raises(TestbedError, match=r"no network namespace 'tb.li-none.radio'"):
        Shaper("tb.li-none.radio")


@pytest.mark.quiet
def test_the_rate_of_a_wire_is_within_one_percent() -> None:
    """Upwards on one wire and, meanwhile, downwards on another."""
    wires = [spec(0), spec(1)]
    with wired("li-rate", wires) as lab:
        shaper = Shaper(lab.name("radio"))
        edge = lab.name("edge")
        up, down = (
            (lab.name("ue0"), edge, wires[0].edge_address, wires[0].edge_interface),
            (edge, lab.name("ue1"), wires[1].ue_address, UE_INTERFACE),
        )
        ports = [port for wire in wires for port in (wire.up_port, wire.down_port)]
        for rate in (1e6, 5e6, 20e6, 100e6):
            # what the flow before left in the queue must not take part
            shaper.set_rates(dict.fromkeys(ports, 1e9))
            time.sleep(0.3)
            shaper.set_rates(dict.fromkeys(ports, rate))
            with PauseProbe() as probe, ExitStack() as stack:
                counters = [stack.enter_context(Counter(receiver, port)) for _, receiver, _, port in (up, down)]
                for sender, receiver, address, _ in (up, down):
                    stack.enter_context(Flow(sender, receiver, address))
                time.sleep(0.5)  # TCP fills the leaf
                start = time.monotonic()
                # 1 Mbit/s: a frame is 1.2 % of a second
                seconds = 4.0 if rate < 5e6 else 2.0
                time.sleep(seconds + 0.1)
                pauses = probe.close()
            for counter in counters:
                assert_carried(counter, (start, start + seconds), lambda a, b, rate=rate: rate * (b - a), pauses)
        shaper.close()
