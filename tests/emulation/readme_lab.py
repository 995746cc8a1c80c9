"""README's lab that stays: its command lines in their order, in either runtime."""

from __future__ import annotations

from tests.command_lines import ROOT, lines
from tests.emulation.conftest import LABS, Bench

VERBS = ("up", "ps", "logs", "exec", "link", "policy", "down")


def go_through(bench: Bench) -> dict[str, str]:
    """What each verb printed. The lab is a small one under a name of its own, which is said where others may be up."""
    name = bench.name()
    wanted = [line.words for line in lines(ROOT / "README.md") if line.words[0] in VERBS]
    assert [words[0] for words in wanted] == list(VERBS)
    said = {}
    for verb, *rest in wanted:
        more: tuple[str, ...] = ("--lab", name)
        if verb == "up":
            assert rest == ["lab.yaml"]
            rest, more = [str(LABS / "tiny.yaml")], ("--name", name, "--runtime", bench.runtime)
        elif verb in ("ps", "down"):
            more = (name,)
        words = [verb, rest[0], *more, *rest[1:]] if verb in ("link", "policy") else [verb, *more, *rest]
        said[verb] = bench.call(*words).stdout
    return said
