"""What is missing is said together with the ways to get it."""

from __future__ import annotations

import dataclasses

import pytest

from testbed.errors import HostError
from testbed.wires.capabilities import Capabilities

EVERYTHING = Capabilities(True, True, True, True, True, True, True, ("cubic",))


def test_what_is_there_is_not_complained_about() -> None:
    EVERYTHING.require("a wire", "htb", "u32", "mirred", "netem", "vde")


@pytest.mark.parametrize("name", ["htb", "u32", "mirred", "netem", "vde"])
def test_what_is_missing_is_named_with_its_fix(name: str) -> None:
    lacking = dataclasses.replace(EVERYTHING, **{name: False})
    with pytest.raises(HostError, match=rf"a test was asked for: {name} \(kernel .*missing on this host") as caught:
        lacking.require("a test", "htb", "u32", "mirred", "netem", "vde")
    assert " or " in str(caught.value)
    assert caught.value.exit_code == 3
