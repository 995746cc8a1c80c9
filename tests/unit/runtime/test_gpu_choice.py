"""What host and engine say of GPUs, and what a lab that requires one is told, before anything is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testbed.cli import main
from testbed.errors import HostError
from testbed.runtime.docker.engine_gpu import device_request
from testbed.runtime.host import gpu

TINY = Path(__file__).parents[2] / "emulation" / "labs" / "tiny.yaml"


@pytest.mark.parametrize(
    ("information", "driver", "ids"),
    [
        ({"Runtimes": {"runc": {}, "nvidia": {"path": "nvidia-container-runtime"}}}, "", []),
        (
            {"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"ID": "nvidia.com/gpu=all"}, {"ID": "nvidia.com/gpu=0"}]},
            "cdi",
            ["nvidia.com/gpu=0"],
        ),
    ],
)
def test_an_engine_that_offers_nvidia_is_asked_for_one_device(
    information: dict[str, Any], driver: str, ids: list[str]
) -> None:
    request = device_request(information)
    assert request is not None
    assert request["Driver"] == driver
    assert request["DeviceIDs"] == ids
    assert request["Count"] == (0 if ids else 1)
    assert request["Capabilities"] == ([] if ids else [["gpu", "compute", "utility"]])


@pytest.mark.parametrize(
    "information",
    [{"Runtimes": {"runc": {}}}, {"Runtimes": None, "DiscoveredDevices": [{"ID": "vendor.com/net=0"}]}, {}],
)
def test_an_engine_without_nvidia_is_asked_for_none(information: dict[str, Any]) -> None:
    assert device_request(information) is None


@pytest.fixture
def without_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "device_files", list)


def test_a_host_without_device_is_told_apart_from_one_without_cuda(
    without_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "device" in gpu.lacking()[0]
    monkeypatch.setattr(gpu, "device_files", lambda: [Path("/dev/nvidia0")])
    monkeypatch.setattr(gpu, "torch_has_cuda", lambda: False)
    assert "PyTorch" in gpu.lacking()[0]
    with pytest.raises(HostError, match="PyTorch that is built for CUDA is missing"):
        gpu.check_host("required")
    gpu.check_host("auto")
    monkeypatch.setattr(gpu, "torch_has_cuda", lambda: True)
    gpu.check_host("required")


@pytest.mark.thorough
def test_the_build_of_torch_is_known_without_importing_it() -> None:
    code = (
        "import sys; from testbed.runtime.host.gpu import torch_has_cuda; before = torch_has_cuda(); "
        "assert 'torch' not in sys.modules; import torch; assert before == (torch.version.cuda is not None), before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.root  # others end up in a process of their own, which looks for devices itself
def test_a_lab_that_requires_a_gpu_ends_with_3_before_anything_is_started(
    tmp_path: Path, without_device: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["run", str(TINY), "--runtime", "netns", "--set", "edge.gpu=required", "--out", str(out)]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--duration", "3 s"])
    assert end.value.code == 3
    (paragraph,) = capsys.readouterr().err.splitlines()
    for part in ("gpu: required", "/dev/nvidia0", "gpu: auto"):
        assert part in paragraph
    assert not out.exists()
