"""Cuts: which values of a graph cross the wire."""

from __future__ import annotations

#: The names of the graph values that cross the wire. The device runs their ancestors (themselves included).
#: ``("input",)`` runs everything on the edge, ``()`` runs everything on the device.
Cut = tuple[str, ...]
ALL_ON_EDGE: Cut = ("input",)
ALL_ON_DEVICE: Cut = ()


def cut_label(cut: Cut) -> str:
    """A cut as one word for tables, metrics and files: ``local``, ``input``, ``layer4_1_relu``, ``a+b``."""
    return "+".join(cut) if cut else "local"


def cut_from_label(label: str) -> Cut:
    """Inverse of :func:`cut_label`."""
    return () if label == "local" else tuple(label.split("+"))
