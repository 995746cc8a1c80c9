"""Deadlines: order, no earlier than asked; and wake-ups that are not lost."""

from __future__ import annotations

import threading
import time

from testbed.node.pacing import DeadlineThread
from testbed.node.threads import Wakeup


def test_deadlines_are_released_in_order_and_never_early() -> None:
    thread = DeadlineThread("test")
    thread.start()
    released: list[tuple[float, float]] = []
    done = threading.Event()

    def note(deadline: float, now: float) -> None:
        released.append((deadline, now))
        if len(released) == 4:
            done.set()

    start = time.monotonic()
    for offset in (0.06, 0.02, -1.0, 0.04):
        deadline = start + offset
        thread.submit(deadline, lambda now, deadline=deadline: note(deadline, now))
    assert done.wait(10)
    thread.stop()
    assert sorted(deadline for deadline, _ in released[1:]) == [deadline for deadline, _ in released[1:]]
    assert all(now >= deadline for deadline, now in released)


def test_a_callback_may_submit() -> None:
    thread = DeadlineThread("test")
    thread.start()
    done = threading.Event()
    thread.submit(0.0, lambda now: thread.submit(now, lambda _: done.set()))
    assert done.wait(10)
    thread.stop()


def test_wakeup_set_before_the_wait_is_seen_once() -> None:
    wakeup = Wakeup()
    wakeup.set()
    wakeup.set()
    assert wakeup.wait(10)
    assert not wakeup.wait(0)
    wakeup.close()
