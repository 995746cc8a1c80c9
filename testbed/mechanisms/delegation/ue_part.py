"""A UE that decides for itself, as a part of its program."""

from __future__ import annotations

from controller.service import protocol
from testbed.mechanisms.delegation.adviser import Adviser
from testbed.node.ue_node import UeNode, UePart


class Delegation(UePart):
    """Becomes what the controller delegates, and answers its questions."""

    def __init__(self, node: UeNode) -> None:
        self._control = node.control
        self._adviser = Adviser(node.config.node)

    def heard(self, message: protocol.Control) -> bool:
        if isinstance(message, protocol.Delegation):
            self._adviser.accept(message)
        elif isinstance(message, protocol.Question):
            self._control.send(self._adviser.answer(message))
        else:
            return False
        return True
