from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from testbed.errors import InputError
from testbed.inference.models import check_model, load_model

HERE = Path(__file__).parent


def test_same_seed_same_weights_and_the_callers_randomness_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, second, other = (load_model("branching:Branching", seed, (HERE,)) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.answer, second.answer)
    assert not torch.equal(first.answer, other.answer)
    assert (first.input_shape, first.classes) == ((3, 32, 32), 10)
    assert not first.module.training


def test_input_size_is_the_models_own() -> None:
    assert load_model("torchvision:efficientnet_b1", 0).input_shape == (3, 240, 240)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "not a model name"),
        ("torchvision:resnet19", "resnet18"),
        ("no_such_package:factory", "No module named 'no_such_package'"),
        ("branching:Branchin", "Branching"),
        ("branching:not_a_module", "must return a torch.nn.Module, not int"),
        ("branching:fails", "weights are not here"),
        ("branching:NotAnAnswer", "must answer with tensors, not with a dict"),
    ],
)
def test_unknown_models(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(name, 0, (HERE,))


def test_check_model() -> None:
    check_model("torchvision:vit_b_16", HERE)
    check_model("branching:Branching", HERE)
    with pytest.raises(InputError, match="resnet18"):
        check_model("torchvision:resnet19", HERE)


def test_profile_files_need_no_torch() -> None:
    modules = "testbed.inference.profiles, testbed.cli.profile, controller.model.cuts"
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; sys.exit('torch' in sys.modules)"], check=True)


@pytest.mark.thorough
def test_a_model_is_made_and_cut_without_torchs_compiler_and_without_a_thread() -> None:
    """Its import takes a second, of every process that computes; and what is forked from a process with threads hangs.

    Bars of progress (tqdm, installed with timm, and made by torch.fx) have one.
    """
    code = (
        "import os, sys; from testbed.node.preload import preload; "
        "preload('branching:Branching', 3, sys.argv[1], '', ''); "
        "found = [name for name in ('torch._dynamo', 'torch._inductor') if name in sys.modules]; "
        "sys.exit(str(found) if found or len(os.listdir('/proc/self/task')) > 1 else 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(HERE)], check=True)


@pytest.mark.thorough
def test_commands_on_a_lab_that_is_up_import_no_figures() -> None:
    code = (
        "import sys, testbed.cli.up, testbed.cli.down, testbed.cli.ps; "
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'scipy', 'pyarrow')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
