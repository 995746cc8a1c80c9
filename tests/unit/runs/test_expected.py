"""How many tasks a run has, before it is run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.model.arrivals import ArrivalProcess
from controller.service.protocol import Start
from testbed.lab.expected import expected_tasks
from testbed.labfile.load import load
from testbed.labfile.scenario import arrivals_of
from testbed.node.arrivals import ArrivalSchedule

LAB = Path(__file__).parents[2] / "emulation" / "labs" / "tiny.yaml"
LAWS = [
    "{process: poisson, rate: 8 /s}",
    "{process: periodic, rate: 3 /s}",
    "{process: switching, rates: [2 /s, 9 /s], switch: 20 %}",
]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("seconds", [0.1, 7.0, 7.1])
def test_it_is_what_the_ues_schedule(law: str, seconds: float) -> None:
    topology = load(LAB, [f"ues.0.arrivals={law}"])
    expected = expected_tasks(topology, seconds)
    for ue in topology.expand():
        process = ArrivalProcess(arrivals_of(ue)[0], topology.slot, topology.seed, ue.index)
        schedule = ArrivalSchedule(process, Start(100.0, topology.slot, seconds))
        schedule.extend(100.0 + seconds + 5.0)
        times = [time for task in range(1000) if (time := schedule.arrival_seconds(task)) is not None]
        assert expected[ue.name] == len(times)
        assert np.all(np.asarray(times) < 100.0 + seconds)
