"""The house rules that import-linter does not know: no circles, no borrowed private names, nothing too long to read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
MOST_PARAMETERS = 8
#: What is longer, and why it stays so.
LONG_FILES = {
    "testbed.programs.player.playback": "to be divided",
}
LONG_FUNCTIONS = {
    "controller.learning.ppo:learn": "to be divided",
    "controller.solvers.allocation.general:_build": "one cone programme, written down",
    "controller.solvers.allocation.interior:solve_exact": "one interior-point iteration, compiled",
    "controller.solvers.allocation.shares:share_slot": "steps on shared scratch arrays, compiled",
    "controller.solvers.dag.game:settle": "to be divided",
}
MANY_PARAMETERS = {
    "testbed.front.verbs:run": "the options of a command",
    "testbed.front.verbs:simulate": "the options of a command",
    "controller.learning.ppo:train_game": "to be divided",
    "controller.policies.lymdo:__init__": "the options of a lab file",
    "controller.simulator.simulate:simulate": "the options of a run",
    "controller.solvers.dag.game:settle": "to be divided",
    "testbed.monitoring.bringup:start_monitoring": "to be divided",
    "testbed.records.manifest:describe_run": "to be divided",
}


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in ("controller", "testbed")
        for path in (ROOT / package).rglob("*.py")
    }


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imports() -> Iterator[tuple[str, str, str]]:
    """(module that imports, module that is imported, name that it takes)."""
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and node.module.split(".")[0] in ("controller", "testbed")
            ):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield (module, inner, "") if inner in MODULES else (module, node.module, alias.name)


def folder(module: str) -> str:
    """A package, or what stands right in `controller/` or `testbed/`: each a room of its own."""
    if MODULES[module].name == "__init__.py" or module.count(".") == 1:
        return module
    return module.rpartition(".")[0]


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module}:{node.name}", node


def decorated(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {ast.unparse(one).partition("(")[0].rpartition(".")[2] for one in function.decorator_list}


@pytest.mark.parametrize("room", [str, folder], ids=["files", "folders"])
def test_no_circles(room: object) -> None:
    assert callable(room)
    graph = nx.DiGraph((room(user), room(used)) for user, used, _ in imports())
    circles = [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]
    assert circles == []


def test_no_private_name_crosses_a_folder() -> None:
    borrowed = [
        f"{user} takes {name} of {used}"
        for user, used, name in imports()
        if name.startswith("_") and not name.startswith("__") and folder(user) != folder(used)
    ]
    assert borrowed == []


def test_a_program_picks_its_mechanisms_in_one_place() -> None:
    """Its main module hands them over as parts: nothing else in programs/ is of one mechanism."""
    users = {user for user, used, _ in imports() if used.startswith("testbed.mechanisms.")}
    assert {user for user in users if not user.startswith("testbed.mechanisms.")} == {
        "testbed.programs.edge.main",
        "testbed.programs.ue.main",
    }


def test_tests_and_benchmarks_import_what_is_there() -> None:
    """Most of them are imported on machines only that have root, an engine, a guest."""
    missing = []
    for path in (*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if isinstance(node, ast.ImportFrom) and source.split(".")[0] in ("controller", "testbed"):
                there = names_of(source)
                taken = [alias.name for alias in node.names if f"{source}.{alias.name}" not in MODULES]
                missing += [f"{path}: {source}.{name}" for name in taken if name not in there and source != "testbed"]
    assert missing == []


@cache
def names_of(module: str) -> set[str]:
    """What can be imported from a module by name."""
    found = set()
    for node in ast.walk(TREES[module]) if module in TREES else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def test_files_are_of_one_idea() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name for name, lines in lengths.items() if lines > MOST_LINES} == set(LONG_FILES)


def test_functions_can_be_read() -> None:
    assert {
        name for name, node in functions() if (node.end_lineno or 0) - node.lineno >= MOST_LINES_OF_A_FUNCTION
    } == set(LONG_FUNCTIONS)


def test_functions_take_few_parameters() -> None:
    """Compiled ones take arrays, for numba knows no objects of ours; a command takes one for each of its options."""
    many = set()
    for name, node in functions():
        names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        if len(names) - (names[:1] in (["self"], ["cls"])) > MOST_PARAMETERS and not decorated(node) & {
            "compiled",
            "command",
        }:
            many.add(name)
    assert many == set(MANY_PARAMETERS)
