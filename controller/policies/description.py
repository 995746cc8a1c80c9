"""What a policy says of itself: the family that it belongs to, its first sentence, its options with their meanings."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from controller.policies import registry

#: ``name : meaning`` or ``name, name : meaning`` in a docstring; what goes on is indented.
_OPTION = re.compile(r"^(\w+(?:, \w+)*) : (.+(?:\n[ ]{4}.+)*)", flags=re.MULTILINE)
_MARKUP = re.compile(r":\w+:`~?([^`]*)`|``([^`]*)``")


@dataclass(frozen=True)
class Family:
    """Policies of one kind. ``modules``: their files in ``controller.policies``."""

    title: str
    decides: str
    page: str  # in docs/
    modules: tuple[str, ...]


FAMILIES = (
    Family("simple", "the cut, and its codec", "policies.md", ("static", "neurosurgeon", "codec")),
    Family(
        "after LyMDO",
        "cut, speed, spectrum and edge share under an energy budget",
        "lymdo.md",
        ("lymdo", "everything", "convex"),
    ),
    Family("after DDS", "cuts of any DAG; UEs bid for the edge", "dds.md", ("dds", "dds_baselines")),
    Family(
        "placement with online splitting",
        "what the device holds; where to stop, layer by layer; models that move",
        "placement.md",
        ("placement",),
    ),
    Family(
        "after MJOA-MU",
        "which layers go up to an edge without the model, while inference runs; shares",
        "upload.md",
        ("upload",),
    ),
    Family(
        "NOMA",
        "cut, subchannels, powers, edge share, with interference between UEs",
        "noma.md",
        ("li_gd",),
    ),
)
#: Of packages that the user installed, and of files beside a lab file.
FOREIGN = Family("of other packages", "what their pages say", "policies.md", ())


@dataclass(frozen=True)
class Option:
    """A keyword argument of a policy's class. ``meaning`` is empty where no docstring has ``name : meaning``."""

    name: str
    default: Any
    meaning: str


@dataclass(frozen=True)
class Description:
    """Of a policy by name."""

    name: str
    family: Family
    sentence: str  # the first of its docstring
    text: str  # the rest, but for the options
    options: tuple[Option, ...]


def describe(name: str) -> Description:
    """What an installed policy, or ``MODULE:CLASS``, says of itself. Raises ValueError, see :func:`registry.create`."""
    policy = registry.load(name)
    sentence, _, rest = (inspect.getdoc(policy) or "").partition("\n\n")
    meanings = _meanings(policy)
    options = tuple(Option(key, default, meanings.get(key, "")) for key, default in registry.options(name).items())
    return Description(name, _family(policy.__module__), _plain(sentence), _plain(_without_options(rest)), options)


def by_family() -> dict[Family, list[Description]]:
    """All installed policies by their family, in the order of :data:`FAMILIES`."""
    found: dict[Family, list[Description]] = {family: [] for family in (*FAMILIES, FOREIGN)}
    for name in registry.available():
        try:
            description = describe(name)
        except ValueError as error:  # somebody's own, which must not hide the others
            description = Description(name, FOREIGN, str(error), "", ())
        found[description.family].append(description)
    return {family: members for family, members in found.items() if members}


def _family(module: str) -> Family:
    package, _, file = module.rpartition(".")
    ours = package == "controller.policies"
    return next((family for family in FAMILIES if ours and file in family.modules), FOREIGN)


def _meanings(policy: Any) -> dict[str, str]:
    """By option, of the class and of those that it is derived from; the nearest one's word counts."""
    found: dict[str, str] = {}
    for part in reversed(getattr(policy, "__mro__", (policy,))):
        for match in _OPTION.finditer(inspect.cleandoc(part.__doc__ or "")):
            found |= dict.fromkeys(match[1].split(", "), _plain(match[2]))
    return found


def _without_options(text: str) -> str:
    without = _OPTION.sub("", text.replace("Options\n-------\n", ""))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"^Options of .*and$", "", without, flags=re.MULTILINE)).strip()


def _plain(text: str) -> str:
    """Without the mark-up of docstrings and their line breaks; paragraphs stay."""
    words = _MARKUP.sub(lambda match: match[1] or match[2], text)
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in words.split("\n\n"))
