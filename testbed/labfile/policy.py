"""The policy that a lab file names, made and tried on the lab."""

from __future__ import annotations

from collections.abc import Callable

from controller.contract import Policy, Scenario, checkpoint_info
from controller.policies import registry
from controller.user_code import told
from testbed.errors import InputError
from testbed.labfile.schema import Topology

Notify = Callable[[str], None]


def make_policy(topology: Topology, scenario: Scenario, where: str, notify: Notify) -> Policy:
    """The lab's policy, reset for it: what does not fit (a checkpoint, a cut) shows before anything is started.

    Raises InputError.
    """
    name = topology.policy.name
    notify(f"trying policy {name} on this lab (its first use on a host may compile for some seconds)")
    try:
        policy = registry.create(name, topology.policy.options)
        policy.reset(scenario, topology.seed)
        warnings = policy_warnings(name, policy)
    except ValueError as error:
        raise InputError(
            f"key 'policy': {name} does not fit this lab: {str(error).rstrip('.')}", where=where
        ) from error
    except (Exception, SystemExit) as error:  # a user's policy can raise anything
        raise InputError(f"key 'policy': {name} failed in reset: {told(error)}", where=where) from error
    for warning in warnings:
        notify(f"warning: {warning}")
    return policy


def policy_warnings(name: str, policy: Policy) -> list[str]:
    """What of the lab lies outside of what a policy's checkpoint was trained on, as the policy says itself."""
    outside = checkpoint_info(policy).get("outside", [])
    if not outside:
        return []
    return [f"the lab lies outside of what the checkpoint of {name} was trained on: {'; '.join(map(str, outside))}"]
