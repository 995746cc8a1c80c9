"""What happens to a lab while commands about it are ended, repeated, or find it hurt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from testbed.runtime.host.state import state_root
from testbed.runtime.processes.discovery import list_owned, processes
from testbed.wires.state import link_states
from tests.emulation.conftest import LABS, Bench
from tests.emulation.netns_lab import runtime

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("standing")]  # a lab that is up, for most of them

#: A channel that does not change, and a policy that decides other rates than a wire is made with.
STEADY = ("--set", "ues.0.channel={fading: static, distance: 150 m}", "--set", "policy=device-only")


def options(name: str) -> tuple[str, ...]:
    return (str(LABS / "tiny.yaml"), "--name", name, "--runtime", "netns", *STEADY)


def await_owned(process: subprocess.Popen[str], name: str, kind: str) -> None:
    while kind not in {owned.kind for owned in list_owned(name)}:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("verb", "number", "code"),
    [("run", signal.SIGTERM, 143), ("up", signal.SIGTERM, 143), ("verify", signal.SIGHUP, 129)],
)
def test_a_signal_while_a_lab_comes_up_takes_it_down(
    bench: Bench, verb: str, number: signal.Signals, code: int
) -> None:
    name = bench.name()
    process = bench.start(verb, *options(name))
    await_owned(process, name, "namespace")
    process.send_signal(number)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert not list_owned(name)


@dataclass
class Standing:
    """A lab that is up, and what was said to those who wanted it while it came up."""

    bench: Bench
    name: str
    pid: int  # of the command that brought it up
    refused: dict[str, str]

    def up(self, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.bench.call("up", *options(self.name), code=code)

    def processes(self) -> dict[str, int]:
        return {status.node: status.pid for status in runtime(self.name).processes() if status.running}

    def rate(self) -> float:
        """Of the uplink of ue1, as the kernel has it."""
        states = link_states(f"tb.{self.name}.radio", ["ue1", "ue2"])
        return next(one.rate_bits_per_second for one in states if (one.ue, one.direction) == ("ue1", "up"))

    def await_rate(self, bits_per_second: float) -> None:
        deadline = time.monotonic() + 5
        while self.rate() != bits_per_second:
            assert time.monotonic() < deadline, (self.rate(), bits_per_second)
            time.sleep(0.05)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with Bench(tmp_path_factory.mktemp("standing")) as bench:
        name = bench.name()
        first = bench.start("up", *options(name))
        await_owned(first, name, "process")
        (zygote,) = processes(name)
        os.kill(zygote, signal.SIGSTOP)  # the lab might be up before the others are told
        refused = {
            "up": bench.call("up", *options(name), code=1).stderr,
            "down": bench.call("down", name, code=1).stderr,
        }
        os.kill(zygote, signal.SIGCONT)
        _, error = first.communicate(timeout=60)
        assert first.returncode == 0, error
        yield Standing(bench, name, first.pid, refused)


@pytest.mark.parametrize("verb", ["up", "down"])
def test_while_a_lab_comes_up_others_are_told_who_brings_it_up(standing: Standing, verb: str) -> None:
    assert f"another command is bringing this lab up, pid {standing.pid}. " in standing.refused[verb]
    assert {"ue1", "ue2", "edge", "controller", "player", "recorder"} <= set(standing.processes())


def test_link_and_policy_change_on_a_running_lab(standing: Standing) -> None:
    bench, name, decided = standing.bench, standing.name, standing.rate()
    bench.call("link", "set", "--lab", name, "ue1", "--rate", "2 Mbit/s")
    time.sleep(0.5)
    states = json.loads(bench.call("link", "show", "--lab", name, "ue1", "--json").stdout)
    assert {(state["ue"], state["rate_bits_per_second"]) for state in states} == {("ue1", 2e6)}
    bench.call("link", "show", "--lab", name, "nobody", code=2)
    # ue2's rows are those of ue2's own ports, not of the first that there are
    second = json.loads(bench.call("link", "show", "--lab", name, "ue2", "--json").stdout)
    assert {state["ue"] for state in second} == {"ue2"}
    assert 2e6 not in {state["rate_bits_per_second"] for state in second}
    bench.call("link", "reset", "--lab", name, "ue1")
    time.sleep(0.5)
    states = json.loads(bench.call("link", "show", "--lab", name, "--json").stdout)
    assert 2e6 not in {state["rate_bits_per_second"] for state in states if state["ue"] == "ue1"}
    bench.call("link", "set", "--lab", name, "nobody", "--rate", "2 Mbit/s", code=2)
    bench.call("policy", "set", "--lab", name, "edge-only")
    assert json.loads(bench.call("ps", name, "--json").stdout)[0]["policy"] == "edge-only"
    bench.call("policy", "set", "--lab", name, "nonsense", code=2)
    inside = bench.call("exec", "--lab", name, "ue1", "--", "ip", "-br", "address").stdout
    assert "eth1" in inside
    assert "10.77.0.0/31" in inside
    bench.call("policy", "set", "--lab", name, "device-only")
    standing.await_rate(decided)


def test_up_leaves_a_lab_whose_controller_is_silent_as_it_is(standing: Standing) -> None:
    before = standing.processes()
    os.kill(before["controller"], signal.SIGSTOP)
    try:
        assert f"its controller (pid {before['controller']}) has not answered" in standing.up(code=1).stderr
    finally:
        os.kill(before["controller"], signal.SIGCONT)
    assert standing.processes() == before


def test_up_leaves_a_lab_whose_state_is_torn_as_it_is(standing: Standing) -> None:
    before = standing.processes()
    state = state_root() / standing.name / "lab.json"
    whole = state.read_bytes()
    state.write_bytes(whole[:100])
    assert f"its controller, pid {before['controller']}, runs" in standing.up(code=1).stderr
    state.write_bytes(whole)
    assert standing.processes() == before


def test_a_repaired_wire_has_the_rate_that_was_decided(standing: Standing) -> None:
    before, rate = standing.processes(), standing.rate()
    subprocess.run(["ip", "-n", f"tb.{standing.name}.radio", "link", "del", "u0"], check=True)
    assert "repaired: wire of ue1, player" in standing.up().stdout
    after = standing.processes()
    assert {node for node in after if after[node] != before[node]} == {"player"}
    standing.await_rate(rate)
    standing.bench.call("link", "set", "--lab", standing.name, "ue1", "--rate", "3 Mbit/s")
    assert standing.rate() == pytest.approx(3e6)
    standing.bench.call("link", "reset", "--lab", standing.name, "ue1")
    standing.await_rate(rate)
