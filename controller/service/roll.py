"""Who has said hello, and with which weights."""

from __future__ import annotations

import math

from controller.service.protocol import Hello

#: A node says hello every 0.2 s until it is welcomed; what comes faster than this is not answered.
GREETING_SECONDS = 0.1


class Roll:
    """The last Hello of each node that takes part, and which were turned away."""

    def __init__(self) -> None:
        self.hellos: dict[str, Hello] = {}
        self._answered_seconds: dict[str, float] = {}
        self._refused: set[tuple[str, int]] = set()  # nodes and pids with weights of their own

    def other_weights(self, hello: Hello) -> str:
        """What is wrong if another node made other weights for the same UE's model; empty if none did."""
        for other in self.hellos.values():
            for ue in other.weights.keys() & hello.weights.keys():
                if other.node != hello.node and other.weights[ue] != hello.weights[ue]:
                    return (
                        f"{other.node} and {hello.node} hold different weights for the model of {ue} "
                        f"({other.weights[ue]} and {hello.weights[ue]}): its factory "
                        "draws them from what no seed reaches (numpy.random.default_rng() without one, os.urandom) or "
                        "from files that differ. Seed it, or load a state_dict that lies beside the lab file."
                    )
        return ""

    def refuse(self, hello: Hello) -> bool:
        """Turn a node away; False if it was before: it goes on saying hello."""
        known = (hello.node, hello.pid) in self._refused
        self._refused.add((hello.node, hello.pid))
        return not known

    def answers(self, node: str, now_seconds: float) -> bool:
        """Whether a Hello of this node is to be answered now: an answer has all that a policy and a run begin with."""
        if now_seconds < self._answered_seconds.get(node, -math.inf) + GREETING_SECONDS:
            return False
        self._answered_seconds[node] = now_seconds
        return True

    def enter(self, hello: Hello) -> bool:
        """Note a node that takes part; True if it is a new process, not the one that was known."""
        known = self.hellos.get(hello.node)
        self.hellos[hello.node] = hello
        return known is None or (known.pid, known.began_seconds) != (hello.pid, hello.began_seconds)
