from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from testbed.errors import InputError
from testbed.inference.models import load_model
from testbed.inference.partition import load_split_model

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scripted", ["TorchScript", "load_state_dict"]),
        ("traced", ["TorchScript", "load_state_dict"]),
        ("Dropping", ["differently each time", "training=self.training"]),
        ("Counting", ["differently each time", "buffers"]),
        ("all_bfloat16", ["computes in bfloat16", "image.to(torch.bfloat16)"]),
        ("Exits", ["SystemExit", "forward leaves", "odd.py"]),
        ("leaves", ["SystemExit", "the factory leaves", "odd.py"]),
        ("fetched", ["URLError", "TORCH_HOME", "weights: FILE"]),
        ("beside", ["beside.pt", "start in the lab file's folder"]),
    ],
)
def test_what_does_not_work_is_one_paragraph_with_a_way_out(name: str, words: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        load_model(f"odd:{name}", 3, (HERE,))
    text = str(refused.value)
    assert [word for word in words if word not in text] == []
    assert len(text.splitlines()) == 1
    assert "input_shape" not in text


@pytest.mark.parametrize("name", ["lazy", "compiled", "NotANumber"])
def test_what_works(name: str) -> None:
    first, second = (load_split_model(f"odd:{name}", 3, (HERE,)) for _ in range(2))
    assert len(first.graph.chain_cuts) > 2
    assert first.model.weights_digest == second.model.weights_digest


def test_a_factory_changes_nothing_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path.cwd()
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    model = load_model("odd:training_script", 3, (HERE,))
    assert set(asked) == {1}
    assert model.answer.dtype == torch.float32
    assert torch.get_num_threads() == 1
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.flash_sdp_enabled()
    assert Path.cwd() == before


def test_a_factory_runs_in_the_folder_of_the_lab_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab").mkdir()
    torch.save(load_model("odd:plain", 9, (HERE,)).module.state_dict(), tmp_path / "lab" / "beside.pt")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "lab", Path("lab")):
        assert load_model("odd:here", 3, (folder, HERE)).module.folder == str(tmp_path / "lab")
        own = load_model("odd:beside", 3, (folder, HERE))
        assert own.weights_digest == load_model("odd:plain", 9, (HERE,)).weights_digest


def test_weights_are_seeded_whatever_they_are_drawn_with() -> None:
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first, second, other = (load_model("odd:drawn", seed, (HERE,)).weights_digest for seed in (3, 3, 4))
    assert first == second != other
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]
    assert len({load_model("odd:entropy", 3, (HERE,)).weights_digest for _ in range(2)}) == 2, "and the digest tells"


def test_weights_do_not_depend_on_whether_the_module_was_imported_before(monkeypatch: pytest.MonkeyPatch) -> None:
    again = load_model("odd:drawn", 3, (HERE,)).weights_digest
    monkeypatch.delitem(sys.modules, "odd")
    assert load_model("odd:drawn", 3, (HERE,)).weights_digest == again


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def make(:\n", ["SyntaxError", "strange.py:1", "def make(:"]),
        ("import sys\nsys.exit(3)\n", ["SystemExit", "strange.py:2"]),
        ("raise GeneratorExit('odd')\n", ["GeneratorExit", "odd", "strange.py:1"]),
        ("import not_installed\n", ["No module named 'not_installed'", "strange.py:1"]),
        ("assert False\n", ["AssertionError", "strange.py:1: assert False"]),
        ("def f(): f()\nf()\n", ["RecursionError"]),
        ("def __getattr__(name): raise OSError('lazily')\n", ["OSError", "lazily"]),
    ],
)
def test_whatever_an_import_raises_is_one_paragraph(
    text: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strange.py").write_text(text)
    monkeypatch.delitem(sys.modules, "strange", raising=False)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with pytest.raises(InputError) as refused:
        load_model("strange:make", 0, (tmp_path,))
    told = str(refused.value)
    assert [word for word in words if word not in told] == []
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("name", [".relative:make", "a..b:make", "odd.:make", "odd:", ":make", "o d d:make", "\0:make"])
def test_strange_names(name: str) -> None:
    with pytest.raises(InputError):
        load_model(name, 0, (HERE,))


@pytest.mark.thorough
def test_a_users_module_may_import_torchvision(tmp_path: Path) -> None:
    """Also where its compiled operators do not load, and inside of a library or a factory."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "__init__.py").write_text("from torchvision.transforms import Resize\n")
    (tmp_path / "mine.py").write_text(
        "import library\nfrom torch import nn\n"
        "def make():\n    import torchvision.models\n    return torchvision.models.alexnet(num_classes=10)\n"
    )
    code = f"from pathlib import Path; from testbed.inference.models import load_model; \
print(load_model('mine:make', 3, (Path({str(tmp_path)!r}),)).classes)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "10"


def test_a_folder_that_is_closed_to_this_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("testbed.inference.models.os.chdir", refuse)
    with pytest.raises(InputError, match=r"cannot be entered: Permission denied.*chmod o\+rx"):
        load_model("odd:plain", 0, (tmp_path, HERE))
