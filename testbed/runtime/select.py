"""Which runtime ``--runtime auto`` means on this host."""

from __future__ import annotations

from testbed.plan import RuntimeName

RUNTIME_CHOICES = ("auto", "docker", "netns")


def select(choice: str) -> RuntimeName:
    """``auto`` is the embedded runtime until the docker runtime is there."""
    if choice == "docker":
        return "docker"
    return "netns"
