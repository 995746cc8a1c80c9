"""The release that base images are made of follows the host's."""

from __future__ import annotations

import platform

import pytest

from testbed.runtime.docker.docker_build import base_for, host_codename


@pytest.mark.parametrize(
    ("codename", "suite", "python"),
    [
        ("bookworm", "bookworm", "3.11"),
        ("trixie", "trixie", "3.13"),
        ("noble", "noble", "3.12"),
        ("", "bookworm", "3.11"),
    ],
)
def test_a_base_has_the_python_of_its_release(codename: str, suite: str, python: str) -> None:
    base = base_for(codename)
    assert (base.suite, base.python) == (suite, python)


def test_the_host_says_its_release_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"NAME": "Ubuntu", "VERSION_CODENAME": "noble"})
    assert host_codename() == "noble"

    def missing() -> dict[str, str]:
        raise OSError("no os-release")

    monkeypatch.setattr(platform, "freedesktop_os_release", missing)
    assert host_codename() == ""
