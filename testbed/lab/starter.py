"""A folder to begin with: the shipped quickstart as a lab of one's own, with a policy or a model beside it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import InputError
from testbed.folders import can_be_written
from testbed.installed import shipped
from testbed.labfile.schema import Topology


@dataclass(frozen=True)
class Example:
    """``lines``: of the quickstart's lab file, and what stands there instead. ``files``: beside it, by their source."""

    about: str
    files: tuple[str, ...]
    lines: tuple[tuple[str, str], ...]
    next_step: str


_PROFILE = "topologies/profiles/mobilenet_v2.json"
EXAMPLES = {
    "quickstart": Example(
        "three slow UEs run MobileNetV2 beside a small edge",
        (_PROFILE,),
        (),
        "Change a key of `lab.yaml` and run it again; `testbed compare runs/*` puts the runs side by side.",
    ),
    "policy": Example(
        "the same under a policy of your own",
        (_PROFILE, "examples/policy/my_policy.py"),
        (("policy: {name: neurosurgeon}", "policy: {name: my_policy:Threshold, ratio: 1.0}  # my_policy.py"),),
        "Change `my_policy.py`; what `testbed run --policy edge-only` makes is to be beaten: `testbed compare runs/*`.",
    ),
    "model": Example(
        "the same with a model of your own",
        ("examples/model/my_models.py",),
        (
            ("model: torchvision:mobilenet_v2", "model: my_models:classifier           # my_models.py"),
            (
                "profile: profiles/mobilenet_v2.json ",
                "# profile: my.json: without, it is measured here the first time; ",
            ),
        ),
        "Change `my_models.py`; `testbed profile my_models:classifier` measures where it can be cut.",
    ),
}


def write(folder: Path, name: str) -> list[Path]:
    """Write an example into a folder, which is made; returns its files. Raises InputError where one exists."""
    example = EXAMPLES[name]
    texts = {
        "lab.yaml": _lab_text(example),
        "lab.schema.json": json.dumps(Topology.model_json_schema(mode="validation"), indent=1) + "\n",
        "README.md": _readme(name, example),
    }
    copies = {_place(source): source for source in example.files}
    for path in (folder / one for one in (*texts, *copies)):
        if path.exists():
            raise InputError(
                "there is such a file already", where="init", value=str(path), fix="Name a folder that is new or empty."
            )
    if not can_be_written(folder.absolute()):
        raise InputError("nothing can be written there", where="init", value=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    for file, source in copies.items():
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(shipped(source), folder / file)
    return [folder / file for file in (*texts, *copies)]


def _place(source: str) -> str:
    path = Path(source)
    return f"profiles/{path.name}" if path.suffix == ".json" else path.name


def _lab_text(example: Example) -> str:
    text = shipped("topologies", "quickstart.yaml").read_text(encoding="utf-8")
    for line, own in example.lines:
        before, found, after = text.partition(line)
        assert found, f"the quickstart has no {line!r}"
        text = before + own + after
    _, _, keys = text.partition("\n")
    head = f"# yaml-language-server: $schema=lab.schema.json\n# {example.about[0].upper()}{example.about[1:]}.\n"
    return head + keys


def _readme(name: str, example: Example) -> str:
    return f"""# A lab of your own

Made by `testbed init --example {name}`: {example.about}.

    testbed validate       # every key of lab.yaml, and whether this host can carry it
    testbed run            # one minute of it; a report under runs/
    testbed simulate       # the same lab, tasks and channels in the simulator
    testbed compare runs/*

{example.next_step}

`testbed policy list` has the other policies, `testbed examples` other labs. An editor with the YAML language server
completes and checks lab.yaml by lab.schema.json.
"""
