"""The command lines of README.md and docs/*.md, as a reader would type them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Of a fence that shows something else than a shell.
_OTHER_LANGUAGES = ("python", "yaml", "toml", "json")


@dataclass(frozen=True)
class Line:
    """One call of the program: the words behind ``testbed``."""

    page: str
    number: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.words)


def lines(page: Path) -> Iterator[Line]:
    """Every ``testbed ...`` of a page's blocks of code: indented, or fenced without another language."""
    language: str | None = None
    for number, text in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if text.startswith("```"):
            language = text[3:].strip() if language is None else None
        elif text.startswith("    ") if language is None else language not in _OTHER_LANGUAGES:
            for command in _commands(text.strip()):
                yield Line(page.name, number, command)


def all_lines() -> list[Line]:
    return [line for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) for line in lines(page)]


def _commands(text: str) -> Iterator[tuple[str, ...]]:
    text = re.sub(r"^[$#] (?=testbed )", "", text)  # a prompt
    if not re.match(r"(\.venv/bin/)?testbed [a-z-]", text):
        return
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&")  # ends at a comment
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word in (";", "&&"):
            if words and words[0].rpartition("/")[2] == "testbed":
                yield tuple(words[1:])
            words = []
        else:
            words.append(word)
