"""What a program does with an exception that nobody caught, in whichever of its threads: it says so, and ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import zmq

from controller.service.protocol import encode
from controller.service.worker import describe
from testbed.protocol.records import Event
from testbed.protocol.sockets import records_endpoint

logger = logging.getLogger("testbed.node")

#: A program whose thread has ended has so long to send what it still has.
GRACE_SECONDS = 5.0
_LINGER_MILLISECONDS = 1000
_LONGEST_REASON = 500


@contextmanager
def accounted(node: str, lab_directory: str) -> Iterator[None]:
    """The life of a program of a lab, in its main thread.

    What any thread raises goes to the log and, as an event ``died`` of the node, to the recorder; the program is then
    asked to end as by SIGTERM, and its exit code is 1. What the main thread raises is recorded too, and goes on.
    """
    ended: list[str] = []

    def thread_ended(arguments: threading.ExceptHookArgs) -> None:
        name = "a thread" if arguments.thread is None else f"thread {arguments.thread.name!r}"
        error = arguments.exc_value or arguments.exc_type()
        ended.append(f"{name} ended: {describe(error)}"[:_LONGEST_REASON])
        try:
            logger.critical(ended[-1], exc_info=error)
            record_death(lab_directory, node, ended[-1])
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(GRACE_SECONDS)
            os._exit(1)

    before, threading.excepthook = threading.excepthook, thread_ended
    try:
        yield
    except BaseException as error:
        record_death(lab_directory, node, f"ended: {describe(error)}"[:_LONGEST_REASON])
        raise
    finally:
        threading.excepthook = before
    if ended:
        raise SystemExit(1)


def record_death(lab_directory: str, node: str, text: str) -> None:
    """Send the event ``died`` on a socket of its own: the program's are its main thread's. Waits a second at most."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as records:
        records.set(zmq.LINGER, _LINGER_MILLISECONDS)
        records.connect(records_endpoint(lab_directory, node))
        records.send(encode(Event(time.monotonic(), node, "died", text)), zmq.NOBLOCK)


def reason_of(where: str, error: Exception) -> str:
    """Why a task fails that met ``error``, for its record. The traceback goes to the log, once per reason."""
    reason = f"{where}: {describe(error)}"[:_LONGEST_REASON]
    if reason not in _explained and len(_explained) < _MOST_EXPLAINED:
        _explained.add(reason)
        logger.error("a task failed: %s", reason, exc_info=error)
    return reason


_explained: set[str] = set()
_MOST_EXPLAINED = 100
