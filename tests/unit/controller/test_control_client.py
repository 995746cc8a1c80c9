"""A client whose controller is not there, does not read, or speaks another language: never longer than its timeout."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import zmq

from testbed.protocol.client import ControlClient, ControllerSilentError
from testbed.protocol.sockets import control_endpoint, make_folder
from testbed.runtime.base import OPERATOR


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "ipc").mkdir()
    return tmp_path


def test_unanswered_questions_never_block_the_next(directory: Path) -> None:
    started = time.monotonic()
    with ControlClient(directory) as client:
        for _ in range(150):  # the socket holds a hundred
            with pytest.raises(ControllerSilentError, match="did not answer StatusRequest within"):
                client.status(timeout_seconds=0.002)
    assert time.monotonic() - started < 10.0


def test_a_controller_of_another_version_is_silent_with_a_reason(directory: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        make_folder(control_endpoint(directory, OPERATOR))
        router.bind(control_endpoint(directory, OPERATOR))

        def answer() -> None:
            identity, _ = router.recv_multipart()
            router.send_multipart([identity, b"\x81\xa4type\xa7Another"])

        thread = threading.Thread(target=answer)
        thread.start()
        with ControlClient(directory) as client, pytest.raises(ControllerSilentError, match="another version"):
            client.status(timeout_seconds=0.5)
        thread.join()
