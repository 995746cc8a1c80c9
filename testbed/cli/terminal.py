"""What a terminal can show: text goes to it in its own encoding, and what that lacks as something like it."""

from __future__ import annotations

import codecs
import io
import sys

#: What the characters that we print are like.
_LIKE = {
    **{"–": "-", "±": "+-", "µ": "u", "×": "x", "…": "...", "·": "-"},
    # blocks of a plot, by height
    **dict(zip("▁▂▃▄▅▆▇█", "__..:||#", strict=True)),
}


def prepare() -> None:
    """Have standard output and errors take every text, whatever their encoding."""
    codecs.register_error("testbed.like", _like)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="testbed.like")


def _like(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(_LIKE.get(one) or one.encode("ascii", "backslashreplace").decode() for one in part), error.end
