"""What the verbs are for, and the page of docs/ that tells more of each: ``--help`` and errors say so."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.errors import HostError, InputError, InvalidRunError, TestbedError

#: Headings of ``testbed --help``, with their verbs and the page of each.
GROUPS: dict[str, dict[str, str]] = {
    "Look": {
        "init": "lab-file.md",
        "examples": "lab-file.md",
        "doctor": "doctor.md",
        "validate": "lab-file.md",
        "plan": "lab-file.md",
        "schema": "lab-file.md",
        "graph": "models.md",
        "policy": "policies.md",
        "completion": "",
    },
    "Run": {
        "run": "runs.md",
        "simulate": "simulate.md",
        "verify": "verify.md",
        "up": "netns.md",
        "down": "netns.md",
        "images": "images.md",
    },
    "Watch": {
        "ps": "netns.md",
        "logs": "netns.md",
        "exec": "netns.md",
        "link": "links.md",
    },
    "Study": {
        "report": "report.md",
        "compare": "compare.md",
        "campaign": "campaigns.md",
        "sweep": "sweep.md",
        "train": "train.md",
        "profile": "profile.md",
        "trace": "trace.md",
    },
}
#: Verbs that take a lab file.
_OF_A_LAB_FILE = ("validate", "plan", "verify", "run", "simulate", "up", "sweep", "train")


def page_of(error: TestbedError, arguments: Sequence[str]) -> str:
    """The page in docs/ that says more about an error of this command line; empty where none does."""
    verb = next((argument for argument in arguments if not argument.startswith("-")), "")
    if isinstance(error, InvalidRunError):
        return "verify.md" if verb == "verify" else "fidelity.md"
    if isinstance(error, HostError):
        return "doctor.md"
    if isinstance(error, InputError) and verb in _OF_A_LAB_FILE and not error.where.startswith("--"):
        return "lab-file.md"
    return next((verbs[verb] for verbs in GROUPS.values() if verb in verbs), "")
