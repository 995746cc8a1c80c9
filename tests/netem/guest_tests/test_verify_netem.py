"""What ``testbed verify`` says of wires on which netem does more than delay: jitter, bursts, damage, duplicates."""

from __future__ import annotations

import pytest

from testbed.lab.verify import delay_checks, rate_checks
from testbed.wires import selftest
from testbed.wires.impairment import GilbertElliott, Impairment
from testbed.wires.plumbing import link_backend
from testbed.wires.wire import WireSpec
from tests.emulation.links_lab import wired

pytestmark = [pytest.mark.root, pytest.mark.netem]

BURSTS = Impairment(0.03, 0.003, bursts=GilbertElliott(0.02, 0.2))
DAMAGE = Impairment(0.02, loss_ratio=0.1, corrupt_ratio=0.05, duplicate_ratio=0.05)


@pytest.mark.quiet
def test_each_direction_does_what_it_was_told() -> None:
    with wired("verify", [WireSpec(0, "ue0", 2e6, 1e6, up=BURSTS, down=DAMAGE, seed=3)]) as lab:
        backend = link_backend(lab.wires)
        assert backend == "htb+netem"
        ways = selftest.directions(lab.wires, lab.name)
        checks = [*delay_checks(ways, backend, 4.0, print), *rate_checks(ways, 2.0, print)]
    figures = {(check.subject, check.what): check for check in checks}
    # a core that is emulated, too, wakes late: limits of time are wider here than on a host
    assert figures["ue0 uplink", "delay"].achieved == pytest.approx(0.03, abs=0.003)
    assert figures["ue0 downlink", "delay"].achieved == pytest.approx(0.02, abs=0.002)
    assert figures["ue0 uplink", "loss"].requested == pytest.approx(1 / 11)
    assert figures["ue0 downlink", "loss"].requested == pytest.approx(1 - 0.9 * 0.95)
    for way in ("uplink", "downlink"):
        assert figures[f"ue0 {way}", "loss"].ok, figures[f"ue0 {way}", "loss"]
        # losses do not empty the queue: what arrives fills the wire, as far as this core wakes in time
        assert 0.7 < figures[f"ue0 {way}", "rate"].achieved / figures[f"ue0 {way}", "rate"].requested < 1.02
