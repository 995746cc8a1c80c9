"""A UE that decides for itself: its part of a decentralised policy, and its answers to the controller's questions."""

from __future__ import annotations

from controller.contract import DecentralisedPolicy, LocalPolicy
from controller.policies import registry
from controller.service import protocol
from controller.service.worker import describe


class Adviser:
    """One UE's part of the policy, the other side of :class:`controller.service.consultation.Consultation`.

    Used by one thread.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._number = -1
        self._local: LocalPolicy | None = None
        self._error = ""
        self._last: protocol.Response | None = None

    def accept(self, delegation: protocol.Delegation) -> None:
        """Become what the controller asks for; what cannot be made is told with the next answer."""
        if delegation.number == self._number and self._local is not None:
            return
        self._number, self._local, self._error, self._last = delegation.number, None, "", None
        try:
            policy = registry.create(delegation.policy, delegation.options)
            if not isinstance(policy, DecentralisedPolicy):
                raise ValueError(f"policy {delegation.policy!r} has no part for a UE")
            local = policy.local_policy()
            local.reset(delegation.scenario)
        except Exception as error:  # noqa: BLE001 - a user's policy may raise anything; the controller is told
            self._error = describe(error)
            return
        self._local = local

    def answer(self, question: protocol.Question) -> protocol.Response:
        """The same question gets the same answer, however often it comes."""
        if self._last is not None and self._last.number == question.number:
            return self._last
        decision = None
        error = self._error
        if question.delegation != self._number or self._local is None:
            error = error or "this UE has no such policy yet"
        else:
            try:
                decision = self._local.respond(question.signal, question.state)
            except Exception as refused:  # noqa: BLE001 - as above
                error = describe(refused)
        response = protocol.Response(self._node, question.delegation, question.number, decision, error)
        if decision is not None:
            self._last = response
        return response
