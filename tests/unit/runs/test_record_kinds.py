"""A kind of record is one declaration: from a frame to a table, and who may send it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testbed.protocol.record import Record, recorded
from testbed.protocol.records import kinds_of, table_names
from testbed.records.streams import SCHEMAS

#: What a new kind takes. The process has no other: its streams and tables are made when they are imported.
DECLARED = """
import sys
from pathlib import Path

import msgspec

from testbed.protocol.record import Record, recorded


@recorded("moods", by=["ue"], order=["level"], values={"word": ["fine", "tired"]})
class Mood(Record, frozen=True):
    ue: str
    level: int
    word: str


from controller.service.protocol import encode
from testbed.programs.recorder.recorder import Recorder
from testbed.records.tables import finalise

run = Path(sys.argv[1])
recorder = Recorder(run)
for node, mood in (("ue1", Mood("ue1", 3, "fine")), ("ue1", Mood("ue1", 1, "tired"))):
    assert recorder.take(node, encode(mood)) == mood
for node, mood in (("ue2", Mood("ue1", 2, "fine")), ("edge", Mood("ue1", 2, "fine")), ("ue1", Mood("ue1", 2, "odd"))):
    assert recorder.take(node, encode(mood)) is None
recorder.close()
print([(row["level"], row["word"]) for row in finalise(run).moods.to_pylist()])
"""


def test_a_new_kind_is_one_declaration(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DECLARED, str(tmp_path)], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert done.stdout == "[(1, 'tired'), (3, 'fine')]\n", done.stderr


def test_a_kind_that_cannot_be_is_refused() -> None:
    class Lost(Record, frozen=True):
        level: int

    with pytest.raises(ValueError, match="Lost has no hight"):
        recorded("lost", order=["hight"])(Lost)
    with pytest.raises(ValueError, match="Lost and TaskRecord cannot share the stream tasks"):
        recorded("tasks")(Lost)
    with pytest.raises(ValueError, match="Lost and EdgeHealth cannot share"):
        recorded("health", rows="edge")(Lost)


def test_streams_that_kinds_share_say_which_a_row_is() -> None:
    assert [kind.rows for kind in kinds_of("health")] == ["node", "edge", "host"]
    assert SCHEMAS["health"].names[0] == "kind"
    assert "arrivals" not in table_names()
