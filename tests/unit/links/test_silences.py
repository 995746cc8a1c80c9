"""What a UE knows of times in which its uplink let nothing through: told over the real socket, by a player's server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from testbed.node.sight import Air, Follow, Sight, SightServer, Silences

SECONDS = 20.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SightServer]:
    server = SightServer(str(tmp_path), ["ue0", "ue1"])
    yield server
    server.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(1e-3)


def test_who_follows_is_told_of_its_own_uplink(tmp_path: Path, server: SightServer) -> None:
    with zmq.Context() as context:
        mine, other = (Silences(Sight(context, ue, str(tmp_path))) for ue in ("ue0", "ue1"))
        for silences in (mine, other):
            silences.follow()
        asked: list[str] = []

        def both_have_asked() -> bool:
            for connection, request in server.received():
                assert isinstance(request, Follow)
                asked.append(request.ue)
                server.answer(connection, Air(False, 5.0))  # nothing was silent
            return len(asked) == 2

        until(both_have_asked)
        server.tell("ue0", Air(True, 10.0))
        server.tell("ue0", Air(False, 12.0))
        server.tell("ue0", Air(False, 12.0))  # said again
        server.tell("ue0", Air(True, 20.0))

        def is_told() -> bool:
            mine.collect()
            other.collect()
            return mine.seconds(20.0, 21.0) > 0

        assert mine.seconds(0.0, 100.0) == 0
        until(is_told)
        assert other.seconds(0.0, 100.0) == 0
        mine.close()
        other.close()


def test_only_what_lies_within_the_time_counts(tmp_path: Path) -> None:
    with zmq.Context() as context:
        silences = Silences(Sight(context, "ue0", str(tmp_path)))
        for told in (Air(True, 10.0), Air(True, 11.0), Air(False, 12.0), Air(True, 20.0), Air(False, 21.0)):
            silences.note(told)
        assert silences.seconds(0.0, 9.0) == 0
        assert silences.seconds(0.0, 100.0) == pytest.approx(3.0)
        assert silences.seconds(11.5, 20.25) == pytest.approx(0.75)
        assert silences.seconds(12.0, 20.0) == 0
        silences.note(Air(True, 30.0))  # it goes on
        assert silences.seconds(20.5, 31.0) == pytest.approx(1.5)
        silences.close()
