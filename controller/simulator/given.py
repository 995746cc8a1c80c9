"""What a tandem of queues is given for a whole run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.model.outage import FORESIGHT_SECONDS

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: As :data:`controller.contract.scenario.OnBusy` spells them.
QUEUE, DROP, LATEST = range(3)


class Links(NamedTuple):
    """All links of a run, see :class:`controller.solvers.allocation.chain.ChainTables`; both are (steps, ues)."""

    quality: FloatArray  # of uplinks
    downlink: FloatArray  # bit/s at the whole spectrum
    step_seconds: float  # for which a row holds; after the last one the first follows


class Fixed(NamedTuple):
    """What stays the same in a run; arrays (ues,) but ``staged``."""

    up_delay: FloatArray  # seconds, one way
    down_delay: FloatArray
    kappa: FloatArray  # joules per second and cubed speed
    transmit_watts: FloatArray  # nominal
    linear: NDArray[np.bool_]  # whose link quality is bit/s per hertz, not a power ratio
    floor: FloatArray  # bit/s under which a link is in an outage
    #: (tasks, cuts): link quality of each task at each cut of its chain, drawn per stage; nan: it is the trace's
    staged: FloatArray = np.empty((0, 1))
    foresight_seconds: float = FORESIGHT_SECONDS  # in which the end of an outage is seen
    #: Tasks that are older are given up, as in the lab: at the head of the device queue, on the way to the edge, and by
    #: the edge before a tail that would end too late.
    timeout_seconds: float = np.inf
    #: what becomes of a task that arrives while the device computes, by UE: QUEUE, DROP or LATEST; (0,): it waits
    on_busy: IntArray = np.empty(0, dtype=np.int64)
