"""Columns of times as people write them: seconds, ms, times since 1970, dates. Counted from the first one."""

from __future__ import annotations

import functools
from datetime import UTC, datetime

import numpy as np

from testbed.traces.trace import Floats
from testbed.traces.value_units import unit_of_name

#: No experiment is longer (three years); what counts further counts from 1970.
EPOCH_SECONDS = 1e8
#: ... in ms, us and ns: the same with 10^3 each, and their number in a second.
FINER_EPOCHS = ((1e17, "ns", 1e9), (1e14, "us", 1e6), (1e11, "ms", 1e3))
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
TIME_UNITS = tuple(_PER_SECOND)
_FORMS = ("%Y.%m.%d_%H.%M.%S", "%Y.%m.%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%d.%m.%Y %H:%M:%S", "%H:%M:%S")


@functools.lru_cache(maxsize=4096)
def moment(text: str) -> float | None:
    """Seconds since 1970 of a date with a time of day, UTC unless it says otherwise; None: it is no date."""
    if ":" not in text and "." not in text and "T" not in text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        for form in _FORMS:
            try:
                found = datetime.strptime(text, form)
                break
            except ValueError:
                continue
        else:
            return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def seconds_from_first(numbers: Floats, unit: str | None, column: str) -> tuple[Floats, str]:
    """Times as seconds from the first one, and the unit that was taken.

    ``unit``: of :data:`TIME_UNITS`, or None: that at the end of the column's name, else that in which the first one
    is a time since 1970, else seconds.
    """
    named = unit_of_name(column)
    first = float(numbers[0])
    since_1970 = next((name for least, name, _ in FINER_EPOCHS if first >= least), None)
    taken = unit or since_1970 or (named if named in _PER_SECOND else None) or "s"
    return np.asarray((numbers - first) / _PER_SECOND[taken]), taken
