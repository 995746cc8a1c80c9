"""How numerical routines are compiled: cached on disk, without the GIL, with IEEE division (x / 0 is inf, no error)."""

from __future__ import annotations

from numba import njit

compiled = njit(cache=True, nogil=True, error_model="numpy")
