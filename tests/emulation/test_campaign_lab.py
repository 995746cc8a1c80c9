"""A campaign of labs: one after the other, each measured once, their records those of `testbed run`."""

from __future__ import annotations

import json

import pytest

from tests.emulation.conftest import LABS, Bench

pytestmark = pytest.mark.root


def test_two_short_points(bench: Bench) -> None:
    name = bench.name()
    (bench.folder / "labs.yaml").write_text(
        f"lab: {LABS / 'tiny.yaml'}\nwhere: lab\nduration: 3 s\nretries: 0\nruntime: {bench.runtime}\n"
        f"set: {{name: {name}}}\nvary: {{policy: [device-only, edge-only]}}\nfigures: [cdf]\n"
    )
    answer = bench.call("campaign", "run", "labs.yaml", "--out", "out", "--json", code=None)
    assert answer.returncode in (0, 4), answer.stderr  # 4: on a host that was not quiet
    out = bench.folder / "out"
    points = json.loads(bench.call("campaign", "status", "labs.yaml", "--out", "out", "--json").stdout)
    assert {point["state"] for point in points} <= {"done", "invalid"}
    manifests = [json.loads(path.read_text()) for path in sorted(out.glob("points/*/manifest.json"))]
    assert {manifest["policy"] for manifest in manifests} == {"device-only", "edge-only"}
    assert {manifest["runtime"] for manifest in manifests} == {bench.runtime}
    assert all(path.stat().st_size for path in out.glob("points/*/report.html"))
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["lab", "lab"]
    bench.call("campaign", "run", "labs.yaml", "--out", "out", code=answer.returncode)
    assert len((out / "journal.jsonl").read_text().splitlines()) == 2
    assert bench.call("ps", name, "--json", code=None).stdout.strip() in ("", "[]")
