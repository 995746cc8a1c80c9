"""The form of a run directory, one number for all that is in it: manifest, streams, tables, summary.

It goes up when a reader of the number before would read something wrongly or not at all. A new column or kind of record
is no new form: readers leave out what they do not know, and what a run lacks is null.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from testbed.errors import InputError

#: 2: the manifest says when the run ended and how many tasks the controller was told of, so that records can be held
#: against it. 3: stands for tables and streams, too; each table had a version of its own, always 1.
RUN_FORMAT = 3
#: Runs from here on are read as they are: what they do not say is not held against them.
OLDEST_FORMAT = 1


class _Head(msgspec.Struct):
    manifest_version: int  # the key's name is from when it was the manifest's alone; older testbeds refuse by it


def require_known(run_directory: Path) -> None:
    """Raises InputError for a run whose manifest says that another version of the testbed wrote it.

    One without a manifest, or whose manifest cannot be read, says nothing: whoever reads that will.
    """
    path = run_directory / "manifest.json"
    try:
        head = msgspec.json.decode(path.read_bytes(), type=_Head)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return
    if not OLDEST_FORMAT <= head.manifest_version <= RUN_FORMAT:
        raise InputError(
            "the run was recorded by another version of the testbed",
            where=str(path),
            value=f"manifest_version {head.manifest_version}",
            allowed=f"{OLDEST_FORMAT} to {RUN_FORMAT}",
            fix="Read it with the version that its key `versions` names.",
        )
