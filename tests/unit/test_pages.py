"""Pages say what the code says: ``python -m benchmarks.pages`` has nothing to write."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks import pages


@pytest.mark.parametrize(("file", "name", "write"), pages.PARTS, ids=[name for _, name, _ in pages.PARTS])
def test_the_part_is_as_it_would_be_written_today(file: str, name: str, write: Callable[[], str]) -> None:
    page = (pages.ROOT / "docs" / file).read_text(encoding="utf-8")
    assert pages.written(page, name, write()) == page
