"""Tests that judge the clock (marked ``quiet``) watch the host: on one that was not quiet, a failure says nothing.

Such a test that fails on a quiet host has failed. One that fails while the host's CPUs stood still, or others computed,
beyond the limits of :mod:`tests.host_watch`, is tried again, and then skipped with the figure as its reason - never
passed, never failed. ``--require quiet`` makes such a skip a failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import pytest
from _pytest.runner import call_and_report

from tests.host_watch import HostFigures

TRIES = 3
#: When so many tests were skipped for the host, it is not going to be quiet: further ones are tried once.
PATIENCE = 2
#: A pause of the host often comes with others.
WAIT_SECONDS = 2.0


class Watch(Protocol):
    """What watches the host (:class:`tests.host_watch.HostWatch`)."""

    def figures(self, begin_seconds: float, end_seconds: float) -> HostFigures: ...

    def close(self) -> None: ...


class QuietTests:
    """The plugin. ``start_watch`` is called before the first such test; ``required`` is ``--require quiet``."""

    def __init__(self, start_watch: Callable[[], Watch], required: bool) -> None:
        self._start_watch = start_watch
        self._required = required
        self._watch: Watch | None = None
        self._module = ""
        self._module_begin = 0.0
        self.skipped: list[tuple[str, str]] = []  # test, reason
        self.repeated: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if item.get_closest_marker("quiet") is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item, nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        if hasattr(item.config, "workerinput"):  # a worker of xdist
            return [*_skipped(item, "judges the clock: run it without -n", nextitem)]
        if self._watch is None:
            self._watch = self._start_watch()
        # What a module's tests share was made, and perhaps disturbed, when the first of them began.
        if item.nodeid.partition("::")[0] != self._module:
            self._module, self._module_begin = item.nodeid.partition("::")[0], time.time()
        begin = self._module_begin
        tries = TRIES if len(self.skipped) < PATIENCE else 1
        for attempt in range(tries):
            if attempt:
                self.repeated.append(item.nodeid)
                time.sleep(WAIT_SECONDS)
                begin = time.time()
                item._initrequest()  # type: ignore[attr-defined]  # fixtures anew, as pytest-rerunfailures does
            reports = [call_and_report(item, "setup", log=False)]
            if reports[0].passed:
                reports.append(call_and_report(item, "call", log=False))
            failed = next((report for report in reports if report.failed), None)
            noise = self._watch.figures(begin, time.time()).noise() if failed else ""
            again = bool(noise) and attempt + 1 < tries
            reports.append(call_and_report(item, "teardown", log=False, nextitem=None if again else nextitem))
            if not again or reports[-1].failed:
                break
        if failed and noise:
            reason = f"the host was not quiet (tries: {tries}): {noise}"
            self.skipped.append((item.nodeid, reason))
            failed.sections.append(("host", reason))
            if not self._required:
                failed.outcome = "skipped"
                failed.longrepr = (str(item.path), item.location[1] or 0, f"Skipped: {reason}")
        return reports

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.repeated:
            terminalreporter.write_line(f"host: {len(self.repeated)} repeats of tests on a host that was not quiet")
        if self.skipped:
            fate = "failed" if self._required else "skipped"
            terminalreporter.write_line(f"host: {len(self.skipped)} tests {fate} because the host was not quiet")

    def pytest_sessionfinish(self) -> None:
        if self._watch is not None:
            self._watch.close()


def _skipped(item: pytest.Item, reason: str, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """Reports of a test that was not run."""
    item.add_marker(pytest.mark.skip(reason=reason))
    return [
        call_and_report(item, "setup", log=False),
        call_and_report(item, "teardown", log=False, nextitem=nextitem),
    ]
