"""The process that records a run: every record goes to a stream on disk, and once more to whoever watches.

It ends by SIGTERM, after everything that was already sent has been written. The lab sends that signal last.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path

import msgspec
import zmq

from controller.service.node_listener import NodeListener
from controller.service.protocol import encode
from testbed.programs.recorder.host_health import HostSampler, of_lab
from testbed.programs.recorder.node_health import NodeSampler
from testbed.protocol.configs import RecorderConfig, read_config
from testbed.protocol.record import Record
from testbed.protocol.records import KINDS
from testbed.protocol.roles import record_sockets, recorded_by
from testbed.protocol.sockets import live_endpoint, make_folder
from testbed.records.streams import SCHEMAS, StreamWriter, streams_directory

FLUSH_SECONDS = 1.0
#: Frames are taken in gulps: waking for each one costs a core that the emulation needs several percent.
GULP_SECONDS = 0.1
#: After SIGTERM the recorder ends when nothing has come for this long.
QUIET_SECONDS = 0.3
#: ... and after this anyway: a node that does not end by its signal may go on talking.
MOST_SECONDS_AFTER_TERM = 8.0
MOMENT_SECONDS = 0.001
#: The rest is only counted: a node could fill a disk with complaints about it.
MOST_EXPLAINED = 100

#: A disk that is full for a moment costs nothing: rows wait in memory for so long.
FULL_SECONDS = 5.0
#: ... and so long at the end: whoever ends a lab waits three seconds for its recorder.
FULL_AT_END_SECONDS = 1.5

log = logging.getLogger("recorder")


class Recorder:
    """Decodes frames, keeps rows until the next flush, writes them."""

    def __init__(self, run_directory: Path) -> None:
        directory = streams_directory(run_directory)
        self._writers = {name: StreamWriter(directory, name) for name in SCHEMAS}
        self._rows: dict[str, list[Record]] = defaultdict(list)
        self._full_since: float | None = None
        self.malformed = 0  # could not be read, or has values that no column holds

    def take(self, node: str, frame: bytes) -> Record | None:
        """What a node has recorded. A malformed one, or one that is not the node's to make, is counted and dropped."""
        try:
            record = recorded_by(node, frame)
        except msgspec.DecodeError as error:
            self.complain(f"dropped a malformed record of {node}: {error}")
            return None
        self.add(record)
        return record

    def complain(self, text: str) -> None:
        """Count it; of the first ones the log tells."""
        self.malformed += 1
        if self.malformed <= MOST_EXPLAINED:
            log.warning("%s (%d so far)", text, self.malformed)

    def add(self, row: Record) -> None:
        self._rows[KINDS[type(row)].stream].append(row)

    def flush(self, patience_seconds: float = FULL_SECONDS) -> bool:
        """Write what waits; False if the disk is full: the rows wait for the next call, what fits elsewhere is written.

        Raises OSError once it has been so for longer than ``patience_seconds``.
        """
        full: OSError | None = None
        for name, rows in self._rows.items():
            if rows:
                try:
                    self._unwritable(self._writers[name].write(rows))
                except OSError as error:
                    full = error
                else:
                    rows.clear()
        now = time.monotonic()
        if full is None:
            self._full_since = None
            return True
        if self._full_since is None:
            self._full_since = now
            log.warning("the run directory cannot be written (%s): records wait", full.strerror)
        if now - self._full_since >= patience_seconds:
            raise full
        return False

    def close(self) -> None:
        """Raises OSError when the disk is full and stays so."""
        try:
            while not self.flush(FULL_AT_END_SECONDS):
                time.sleep(GULP_SECONDS)
        finally:
            for writer in self._writers.values():
                writer.close()

    def _unwritable(self, rows: list[Record]) -> None:
        for row in rows:
            self.complain(f"cannot write a record: {row!r}")


def record(config: RecorderConfig, config_path: Path) -> None:
    """Record until SIGTERM. Raises OSError when the run directory cannot be written."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    recorder = Recorder(Path(config.run_directory))
    host = HostSampler(of_lab(config.lab, config.run_id))
    nodes = NodeSampler(lambda: read_config(config_path, RecorderConfig).cpu_groups)  # a repair of the lab rewrites it
    with (
        contextlib.closing(host),
        contextlib.closing(NodeListener("PULL", record_sockets(config.lab_directory, config.ues))) as source,
        zmq.Context() as context,
        context.socket(zmq.PUB) as live,
    ):
        live.setsockopt(zmq.LINGER, 0)
        make_folder(live_endpoint(config.lab_directory))
        live.bind(live_endpoint(config.lab_directory))
        log.info("recording into %s", config.run_directory)

        def gulp() -> int:
            taken, until = 0, time.monotonic() + FLUSH_SECONDS
            # what a node's socket has no room for is sent as soon as there is: more comes in a moment
            while (
                (found := source.received()) or (taken and source.wait(MOMENT_SECONDS))
            ) and time.monotonic() < until:
                taken += len(found)
                for node, frame in found:
                    if (taken_record := recorder.take(node, frame)) is not None:
                        live.send(encode(taken_record))
            for node, text in source.notices:
                recorder.complain(f"{node}: {text}")
            source.notices.clear()
            return taken

        def sample() -> None:
            found: list[Record] = [*nodes.sample()]
            found.append(host.sample(nodes.pids, recorder.malformed))
            for health in found:
                recorder.add(health)
                live.send(encode(health))

        next_flush = time.monotonic() + FLUSH_SECONDS
        while not stopping:
            time.sleep(GULP_SECONDS)
            gulp()
            if time.monotonic() >= next_flush:
                sample()
                recorder.flush()
                next_flush = time.monotonic() + FLUSH_SECONDS
        deadline = time.monotonic() + MOST_SECONDS_AFTER_TERM
        while (gulp() or source.wait(QUIET_SECONDS)) and time.monotonic() < deadline:
            if time.monotonic() >= next_flush:  # whoever waits for us may give up
                recorder.flush()
                next_flush = time.monotonic() + FLUSH_SECONDS
        sample()
        recorder.close()
    log.info("recorder ended; %d malformed records", recorder.malformed)


def main(config_path: str | Path) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the lab ends us last
    os.nice(10)
    config = read_config(Path(config_path), RecorderConfig)
    try:
        record(config, Path(config_path))
    except OSError as error:
        log.error(
            "the recorder stopped: %s cannot be written (%s). What was recorded until then is readable: "
            "free some space, then `testbed report %s`.",
            error.filename or config.run_directory,
            error.strerror,
            config.run_directory,
        )
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
