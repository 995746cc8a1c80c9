"""The folder of a campaign: what is done, and what came of it.

    points/KEY/      a run directory; with point.json it is done
    trained/KEY/     a checkpoint and its learning curve; with point.json it is done
    failed/KEY.txt   why a point has no result; it is computed again by the next `run`
    journal.jsonl    what was computed, a line each

A point is done once its ``point.json`` is there, which is written last and at once: what was cut off is computed anew.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from testbed.campaign.jobs import Outcome
from testbed.campaign.measures import Measured
from testbed.errors import InputError, TestbedError
from testbed.folders import write_whole


class PointRecord(msgspec.Struct, frozen=True):
    """``point.json``."""

    key: str
    title: str
    valid: bool
    reason: str  # why it is not
    attempts: int
    seconds: float  # of the last attempt
    host: str


class JournalLine(msgspec.Struct, frozen=True):
    key: str
    kind: str  # "simulator", "lab" or "training"
    status: str
    attempt: int
    seconds: float
    host: str


class Store:
    """Paths are absolute."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def directory(self, key: str) -> Path:
        return self.folder / "points" / key

    def trained(self, key: str) -> Path:
        return self.folder / "trained" / key

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep others from computing the same points. Raises TestbedError while somebody does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TestbedError(f"another command computes this campaign (in {self.folder})") from None
            yield

    def record(self, directory: Path) -> PointRecord | None:
        """Of a directory that is done; None for any other. Raises InputError for one that cannot be read."""
        try:
            return msgspec.json.decode((directory / "point.json").read_bytes(), type=PointRecord)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise InputError(f"the point's record cannot be read: {error}", where=str(directory)) from None

    def measured(self, key: str) -> Measured:
        """Of a point that is done."""
        return msgspec.json.decode((self.directory(key) / "measures.json").read_bytes(), type=Measured)

    def failure(self, key: str) -> str | None:
        try:
            return (self.folder / "failed" / f"{key}.txt").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    def finish(self, directory: Path, outcome: Outcome, title: str, attempt: int) -> None:
        """Keep what came of a point or a training for good."""
        failed = self.folder / "failed" / f"{outcome.key}.txt"
        if outcome.status == "failed":
            failed.parent.mkdir(exist_ok=True)
            failed.write_text(f"{title}: {outcome.text}\n", encoding="utf-8")
            return
        failed.unlink(missing_ok=True)
        record = PointRecord(
            key=outcome.key,
            title=title,
            valid=outcome.status == "done",
            reason=outcome.text,
            attempts=attempt,
            seconds=outcome.seconds,
            host=outcome.host,
        )
        write_whole(directory / "point.json", msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")

    def note(self, line: JournalLine) -> None:
        with (self.folder / "journal.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")

    def journal(self) -> list[JournalLine]:
        """What was computed so far; a line that was cut off is left out."""
        try:
            lines = (self.folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                found.append(msgspec.json.decode(line, type=JournalLine))
            except msgspec.DecodeError:
                continue
        return found

    def tidy(self) -> None:
        """Remove what was cut off."""
        for kind in ("points", "trained"):
            for directory in (self.folder / kind).glob("*"):
                if directory.is_dir() and not (directory / "point.json").exists():
                    shutil.rmtree(directory)
