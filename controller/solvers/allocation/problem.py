"""The convex part of a slot's problem as arrays: what every allocation solver takes and returns.

For cuts that are already chosen, UE n has work ``c_u`` (head seconds on the reference core), ``d`` bits on the wire
and ``c_e`` (tail seconds on the reference core). With device speed f, spectrum b and edge share e its service times are

    s_u = c_u / f,    s_t = d / R(b),    s_e = c_e / e,
    R(b) = b log2(1 + g / b)   (``g = p h / N0`` in Hz: power times gain over noise density), or  R(b) = b g
                               (``linear``: g is the spectral efficiency of a link whose trace gives a rate),

and a slot costs ``sum_n  V w_n (D_n + constant_n) + Q_n E_n + Z E_edge`` with D from :mod:`controller.model.queueing`,
``w`` the UE's weight (times its part of the tasks, where the mean over tasks is wanted: ``ChainTables.weights``),
``E_n = lambda_n tau (kappa_n f^2 c_u + p_n s_t)``, ``kappa = P_max / s_max^3``, subject to ``f <= s_max``,
``sum b = B`` at each access point and ``sum e = F``. With a budget for the edge's energy its virtual queue is Z,
``E_edge = tau kappa_e sum_n lambda_n c_e e_n^2``, and ``sum e <= F``. All of it is jointly convex.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
AllocationModel = Literal["exact", "indep"]
#: Whose mean delay counts: of the tasks, or of the UEs, however many tasks each has.
Objective = Literal["tasks", "ues"]

#: A choice of cuts is feasible when every stage can be kept under this load at once.
MAXIMUM_LOAD = 0.999

#: What a mean delay counts as where no allocation keeps a UE's queues stable: in training, and in what a policy says.
OVERLOAD_DELAY_SECONDS = 5.0


class UeConstants(NamedTuple):
    """What does not change during a run. Arrays are (ues,)."""

    max_speed: FloatArray  # reference cores
    kappa: FloatArray  # W per (reference core)^3
    transmit_watts: FloatArray
    weight: FloatArray  # the lab's
    linear: BoolArray  # the link's state is a spectral efficiency, not p h / N0
    variability: FloatArray  # of the UE's queues: see controller.model.queueing
    station: NDArray[np.int64]  # its access point, from 0: all of the spectrum is there for each one's UEs


def link_rate(ues: UeConstants, spectrum_hz: FloatArray | float, link_quality: FloatArray) -> FloatArray:
    """R(b) above, in bit/s; (..., ues)."""
    shannon = spectrum_hz * np.log2(1.0 + link_quality / spectrum_hz)
    return np.where(ues.linear, spectrum_hz * link_quality, shannon)


class Limits(NamedTuple):
    """What the UEs share, and the trade-off."""

    spectrum_hz: float  # at each access point
    edge_cpus: float
    slot_seconds: float
    v: float  # J^2/s
    #: Z tau kappa_e, J^2 s / (reference core)^3: what the edge's energy costs; 0 without a budget for it
    edge_square_price: float = 0.0


class Demands(NamedTuple):
    """A batch of slots. Arrays are (environments, ues)."""

    arrival_rate_per_second: FloatArray
    weight: FloatArray  # w above
    head_seconds: FloatArray
    wire_bits: FloatArray
    tail_seconds: FloatArray
    link_quality: FloatArray  # g above
    queue_joules: FloatArray
    constant_seconds: FloatArray  # link delay both ways; 0 for a local cut
    #: time of the result at the whole downlink spectrum, 0 for a local cut; offloading UEs share it evenly
    download_seconds: FloatArray


class Allocation(NamedTuple):
    """Arrays are (environments, ues) or (environments,). Never NaN: see ``feasible``."""

    device_speed: FloatArray
    spectrum_hz: FloatArray  # sums to the total at each access point, 0 for a UE that sends nothing
    edge_share: FloatArray  # alike, or sums to less where the edge's energy has a price
    delay_seconds: FloatArray  # mean E2E delay by the model that was optimised, constants included
    energy_joules: FloatArray  # per slot
    cost: FloatArray  # (environments,) sum_n V w_n D_n + Q_n E_n; inf where infeasible
    feasible: BoolArray  # (environments,) False: shares are proportional to the needs, speed is at its maximum
    largest_load: FloatArray  # (environments,) over UEs and stages: near 1 means near saturation
