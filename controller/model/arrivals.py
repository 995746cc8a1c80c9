"""Open-loop task arrivals, slot by slot: the same for every policy, in the simulator and in the testbed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from controller.contract import Arrivals
from controller.seeds import Purpose, generator


class ArrivalProcess:
    """Arrival times of one UE. Deterministic in (seed, ue_index); call :meth:`next_slot` in order.

    - ``poisson``: constant rate;
    - ``periodic``: one every 1/rate seconds with a random phase;
    - ``switching``: Poisson whose rate is one of two, switching with a probability per slot (starts in either);
    - ``file``: given times, in seconds from the origin.
    """

    def __init__(
        self,
        arrivals: Arrivals,
        slot_seconds: float,
        seed: int,
        ue_index: int,
        file_times_seconds: Sequence[float] = (),
    ) -> None:
        self._arrivals = arrivals
        self._slot_seconds = slot_seconds
        self._rng = generator(seed, Purpose.ARRIVALS, ue_index)
        self._slot = 0
        self._file_times = np.sort(np.asarray(file_times_seconds, dtype=np.float64))
        self._state = int(self._rng.integers(2)) if arrivals.process == "switching" else 0
        if arrivals.process == "periodic":
            self._phase_seconds = float(self._rng.random()) / arrivals.rates_per_second[0]

    @property
    def rate_per_second(self) -> float:
        """Nominal rate of the slot that :meth:`next_slot` returns next."""
        return self._arrivals.rates_per_second[self._state]

    def next_slot(self) -> NDArray[np.float64]:
        """Arrival times of the next slot, sorted, in seconds from the origin of slot 0. Shape (count,)."""
        start = self._slot * self._slot_seconds
        end = start + self._slot_seconds
        rate = self.rate_per_second
        process = self._arrivals.process
        if process == "file":
            low, high = np.searchsorted(self._file_times, [start, end])
            times = self._file_times[low:high]
        elif process == "periodic":
            first = int(np.ceil((start - self._phase_seconds) * rate - 1e-9))
            last = int(np.ceil((end - self._phase_seconds) * rate - 1e-9))
            times = self._phase_seconds + np.arange(first, last) / rate
        else:  # Poisson within the slot: given the count, arrivals are uniform
            count = int(self._rng.poisson(rate * self._slot_seconds))
            times = start + np.sort(self._rng.random(count)) * self._slot_seconds
        if process == "switching" and self._rng.random() < self._arrivals.switch_probability:
            self._state = 1 - self._state
        self._slot += 1
        return times
