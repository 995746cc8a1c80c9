"""Outages, in one place for wire, simulator and solvers: what a link carries of what its channel gives.

A rate below the UE's floor is an outage: nothing leaves until its end where that is in sight, else the least that a
wire can carry. The rule, compiled, is :mod:`controller.model.carried`: who only needs the constants loads no compiler.
"""

from __future__ import annotations

#: What a wire lets through in an outage whose end is not in sight: a packet of 1514 bytes holds HTB up for 0.76 s, and
#: that is the longest that the wire may still stand still when the outage is over.
OUTAGE_BITS_PER_SECOND = 16e3
#: An end of an outage that is nearer is in sight. HTB forgets what is owed for more than a minute.
FORESIGHT_SECONDS = 10.0
