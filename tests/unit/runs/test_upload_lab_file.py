"""The shipped lab of uploads: plans that clearly pay, promises that a simulation keeps, and how runs show them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from controller.contract import Scenario
from controller.policies import registry
from controller.policies.upload import UploadPolicy
from controller.simulator.simulate import simulate
from testbed.cli.compare import command
from testbed.lab.simulate import SimulationOrder, simulate_lab
from testbed.labfile.load import load
from testbed.labfile.resolve import resolve
from testbed.records.tables import column, read_tables
from testbed.report.compare import compare
from testbed.report.predicted import predictions

LAB = Path(__file__).parents[3] / "topologies" / "upload.yaml"


def scenario_of_lab(*overrides: str) -> Scenario:
    return resolve(load(LAB, overrides), str(LAB), LAB.parent, 10.0, lambda _: None).scenario


def promises(name: str, scenario: Scenario) -> dict[str, float]:
    policy = registry.create(name)
    assert isinstance(policy, UploadPolicy)
    simulate(scenario, policy, 1, 5)
    return {ue.name: policy.state()[f"predicted_seconds.{ue.name}"] for ue in scenario.ues}


def test_uploading_while_inferring_pays_in_the_shipped_lab() -> None:
    scenario = scenario_of_lab()
    ours, as_served_serially = promises("mjoa-mu", scenario), promises("mjoa-mu-serial", scenario)
    best_serial, shared_serial = promises("serial-upload", scenario), promises("serial-ara", scenario)
    for ue in scenario.ues:
        name = ue.name
        assert ours[name] < 0.95 * best_serial[name]
        assert ours[name] < 0.95 * as_served_serially[name]
        assert ours[name] < 0.95 * ue.profile.head_seconds[-1] / ue.max_speed
        assert ours[name] < 0.3 / ue.arrivals.mean_rate_per_second  # tasks of one UE rarely meet
    assert sum(ours.values()) < 0.95 * sum(shared_serial.values())


def test_plans_that_divide_blocks_promise_less_and_keep_it() -> None:
    """Features are sent before any parameters in the lab, in the graph's recursion before those not needed earlier."""
    scenario = scenario_of_lab()
    blocks, policy = promises("mjoa-mu", scenario), registry.create("mjoa-mu", {"plan": "graph"})
    result = simulate(scenario, policy, 60, 5)
    assert result.tasks is not None
    promised = np.array([policy.state()[f"predicted_seconds.{ue.name}"] for ue in scenario.ues])
    took = result.tasks.stamps[:, -1] - result.tasks.stamps[:, 1]
    done = np.isfinite(took)
    assert set(result.tasks.ue[done]) == {0, 1, 2}
    assert took[done] == pytest.approx(promised[result.tasks.ue[done]], rel=0.01)
    assert promised[0] < 0.97 * blocks["resnet"]
    assert promised[1] < 0.9 * blocks["googlenet"]
    assert promised[2] == pytest.approx(blocks["alexnet"])  # a chain


def test_a_simulation_keeps_what_the_policy_promised_and_runs_show_it(tmp_path: Path) -> None:
    topology = load(LAB)
    simulate_lab(SimulationOrder(topology, str(LAB), LAB.parent, tmp_path / "run", 60, "event"), lambda _: None)
    (row,) = compare([tmp_path / "run"])
    assert set(row.predicted) == {"resnet", "googlenet", "alexnet"}
    for found in row.predicted.values():
        assert found.tasks >= 1
        assert found.ratio == pytest.approx(1.0, abs=1e-9)
        assert found.largest_error_ratio < 1e-9
    assert "What the policy predicted" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    tables = read_tables(tmp_path / "run")
    ended = tables.tasks.filter(column(tables.tasks, "status") == "completed")
    assert min(column(ended, "wire_bytes")) > 1e7  # parameters count
    assert min(column(ended, "boundary_bytes")) > 224 * 224 * 3  # more than the input crosses


@pytest.mark.thorough
def test_a_measured_run_is_held_against_its_promise(tmp_path: Path) -> None:
    topology = load(LAB)
    simulate_lab(SimulationOrder(topology, str(LAB), LAB.parent, tmp_path / "run", 60, "event"), lambda _: None)
    tables = read_tables(tmp_path / "run")
    tasks = tables.tasks.to_table()
    slower = tasks.set_column(
        tasks.schema.get_field_index("e2e_delay_seconds"),
        "e2e_delay_seconds",
        pa.array(1.1 * column(tables.tasks, "e2e_delay_seconds")),
    )
    found = predictions(tables.replaced(tasks=slower))
    assert all(one.ratio > 1.09 for one in found.values())
    assert predictions(tables.replaced(slots=tables.slots.to_table().slice(0, 0))) == {}
    shown = CliRunner().invoke(command, [str(tmp_path / "run"), "--json"])
    rows = msgspec.json.decode(shown.output)
    assert set(rows[0]["predicted"]) == set(found)


def test_a_kept_cache_makes_later_queries_faster(tmp_path: Path) -> None:
    topology = load(LAB, ["uploading.cache=keep"])
    simulate_lab(SimulationOrder(topology, str(LAB), LAB.parent, tmp_path / "run", 100, "event"), lambda _: None)
    tasks = read_tables(tmp_path / "run").tasks
    for ue in ("resnet", "googlenet"):
        own = tasks.filter((column(tasks, "ue") == ue) & (column(tasks, "status") == "completed"))
        delays, sent = column(own, "e2e_delay_seconds"), column(own, "wire_bytes")
        assert delays[-1] < 0.8 * delays[0]
        assert sent[-1] < 0.5 * sent[0]


def test_vgg_16_pays_in_the_simulator() -> None:
    lab = LAB.parent / "upload-vgg16.yaml"
    scenario = resolve(load(lab), str(lab), lab.parent, 10.0, lambda _: None).scenario
    assert {ue.profile.model for ue in scenario.ues} == {"torchvision:vgg16"}
    ours, others = promises("mjoa-mu", scenario), promises("serial-ara", scenario)
    assert sum(ours.values()) < 0.85 * sum(others.values())
