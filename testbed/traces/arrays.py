"""Arrays of channel simulators (Sionna, QuaDRiGa, ns-3's readers) in files of NumPy and MATLAB, as traces.

Complex arrays hold channel coefficients. The power gain of a link is the sum over its paths of ``|coefficient|^2``, the
mean over antenna pairs (and over subcarriers, where the coefficients are a frequency response): what QuaDRiGa's own
scripts call its path gain. Real arrays are columns, as in a table.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.errors import InputError, first_line
from testbed.traces.clock import seconds_from_first
from testbed.traces.layouts import TITLES, ArrayFormat, import_command
from testbed.traces.series import Imported, Series, Wanted, make_trace
from testbed.traces.trace import Floats

SUFFIXES: dict[str, ArrayFormat] = {".npy": "npy", ".npz": "npz", ".mat": "mat"}
#: The last axes of coefficients where nobody says otherwise: those of Sionna's and QuaDRiGa's impulse responses.
DEFAULT_AXES = ("paths", "time")
AXES = ("paths", "subcarriers", "antennas", "time")
#: The axes before them by how many there are: Sionna RT has four, the channel models of Sionna five, QuaDRiGa two.
_LEADING = {
    4: ("receiver", "antennas", "transmitter", "antennas"),
    5: ("batch", "receiver", "antennas", "transmitter", "antennas"),
}
_NAMES = {"time": ("time", "times", "t"), "up": ("up", "uplink", "ul"), "down": ("down", "downlink", "dl")}
_COEFFICIENTS = ("a", "coeff", "h", "cir", "cfr")

Array = NDArray[np.generic]
#: What the readers raise for files that are cut or damaged, besides Python's own.
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error)


def array_format(path: Path) -> ArrayFormat | None:
    """By what a file begins with; None: it holds no arrays."""
    try:
        with path.open("rb") as file:
            head = file.read(128)
    except OSError:  # whoever reads it says what is the matter
        return None
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PK\x03\x04"):
        return "npz"
    return "mat" if head.startswith(b"MATLAB") else None


def read_arrays(path: Path, form: ArrayFormat, wanted: Wanted = Wanted()) -> Imported:  # noqa: B008  # frozen
    """A file's arrays as a trace. Raises InputError, naming what the file holds."""
    arrays = _load(path, form)
    if wanted.where or wanted.time_unit not in (None, "s", "ms", "us", "ns"):
        raise InputError("--where is of tables", where=str(path), value=_holds(arrays), fix="Take --index.")
    if len(arrays) == 1 and (name := next(iter(arrays))) and arrays[name].ndim == 2 and not _complex(arrays[name]):
        columns: Mapping[str, Array] = {str(n + 1): column for n, column in enumerate(_rows(arrays[name]).T)}
        names = dict(zip(("up", "down") if wanted.step_seconds else ("time", "up", "down"), columns, strict=False))
    else:
        columns, names = arrays, _by_name(arrays)
    if wanted.up or wanted.down:
        names = {"time": names.get("time", ""), "up": wanted.up, "down": wanted.down}
    if wanted.time:
        names["time"] = wanted.time
    up, down = (_way(columns, names.get(way, ""), wanted, path) for way in ("up", "down"))
    known = up if up is not None else down
    if known is None:
        raise InputError(
            "it is not clear which array holds the values",
            where=str(path),
            value=_holds(arrays),
            fix=f"Name it: {import_command(path, '--up NAME', '--unit UNIT')}",
        )
    if up is not None and down is not None and up.size != down.size:
        raise InputError("both directions have the same steps", where=str(path), value=f"{up.size} and {down.size}")
    times = _times(columns, "" if wanted.step_seconds else names.get("time", ""), known.size, wanted, path)
    rows = tuple(f"{path}, value {number + 1}" for number in range(known.size))
    titles = (names.get("up", ""), names.get("down", ""))
    of_coefficients = any(name and _complex(columns[name]) for name in titles)
    series = Series(times, up, down, titles, rows)
    found = make_trace(series, "linear" if of_coefficients else "", wanted, str(path), None)
    said = f"{_holds(arrays)}; values of {' and '.join(repr(name) for name in titles if name)}"
    if of_coefficients:
        said += f", gain = sum over paths of |coefficient|^2, mean over antennas; last axes {', '.join(_axes(wanted))}"
    return Imported(found.trace, (said, *found.notes))


def _load(path: Path, form: ArrayFormat) -> dict[str, Array]:
    """Numeric arrays by name. Nothing in the file is run: no pickles, no objects."""
    try:
        if form == "mat":
            loaded = _load_matlab(path)
        elif form == "npz":
            with np.load(path, allow_pickle=False) as file:
                loaded = {name: file[name] for name in file.files}
        else:
            loaded = {"array": np.load(path, allow_pickle=False)}
    except OSError as error:
        if error.strerror:
            raise InputError(f"cannot read the trace: {error.strerror}", where=str(path)) from None
        raise InputError(f"no file of arrays: {first_line(error)}", where=str(path), allowed=TITLES[form]) from None
    except NotImplementedError:
        raise InputError(
            "this is a MAT file of version 7.3",
            where=str(path),
            allowed="up to version 7",
            fix="In MATLAB: save('FILE.mat', 'coeff', '-v7').",
        ) from None
    except (ValueError, TypeError, KeyError, EOFError, *_BROKEN) as error:
        raise InputError(
            f"no file of numeric arrays: {first_line(error)}",
            where=str(path),
            allowed=TITLES[form],
            fix="Save numbers, not objects: np.save(FILE, np.asarray(values)).",
        ) from None
    arrays = {
        name: np.asarray(array)
        for name, array in loaded.items()
        if not name.startswith("__") and getattr(array, "dtype", np.dtype(object)).kind in "fiuc" and np.size(array)
    }
    if not arrays:
        raise InputError(
            "no numeric array in it",
            where=str(path),
            value=", ".join(name for name in loaded if not name.startswith("__"))[:200],
            fix="Save an object's coefficients: coeff = channel.coeff; save('FILE.mat', 'coeff', '-v7').",
        )
    return arrays


def _load_matlab(path: Path) -> dict[str, Array]:
    # imported here: the nodes of a lab read traces too, and need no MATLAB
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return dict(loadmat(path))
    except MatReadError as error:
        raise ValueError(str(error)) from None


def _holds(arrays: Mapping[str, Array]) -> str:
    """What a file holds, in one line."""
    return ", ".join(f"{name} {'x'.join(map(str, array.shape))} {array.dtype}" for name, array in arrays.items())[:300]


def _complex(array: Array) -> bool:
    return array.dtype.kind == "c"


def _rows(array: Array) -> Array:
    """A table has more rows than columns; MATLAB's vectors are rows."""
    return array.T if array.shape[0] < array.shape[1] else array


def _by_name(arrays: Mapping[str, Array]) -> dict[str, str]:
    """What each of the arrays holds, as far as their names tell."""
    lowered = {name.lower(): name for name in arrays}
    names = {what: next((lowered[w] for w in words if w in lowered), "") for what, words in _NAMES.items()}
    if not (names["up"] or names["down"]):
        others = [name for name in arrays if name != names["time"]]
        known = [lowered[word] for word in _COEFFICIENTS if word in lowered]
        names["up"] = known[0] if known else others[0] if len(others) == 1 else ""
    return names


def _way(columns: Mapping[str, Array], name: str, wanted: Wanted, path: Path) -> Floats | None:
    """Values of one direction, shape (steps,); None if it has none."""
    if not name:
        return None
    array = _array(columns, name, path)
    if _complex(array):
        return _gains(array, wanted, path)
    values = np.squeeze(array)
    if values.ndim > 1:
        raise InputError(
            f"{name} has {values.ndim} axes",
            where=str(path),
            value=_holds({name: array}),
            allowed="one axis; complex coefficients may have more",
        )
    return np.atleast_1d(values).astype(np.float64)


def _array(columns: Mapping[str, Array], name: str, path: Path) -> Array:
    if name not in columns:
        raise InputError("no such array", where=str(path), value=name, allowed=_holds(columns))
    return columns[name]


def _axes(wanted: Wanted) -> tuple[str, ...]:
    return wanted.axes or DEFAULT_AXES


def _gains(array: Array, wanted: Wanted, path: Path) -> Floats:
    """Power gain of one link over time, shape (steps,), of coefficients."""
    last = _axes(wanted)[-array.ndim :] if array.ndim else ()
    if "time" not in last or set(last) - set(AXES):
        raise InputError("no axis of time", where="--axes", value=",".join(last), allowed=", ".join(AXES))
    leading = array.ndim - len(last)
    names = list(_LEADING.get(leading, ("antennas",) * leading)) + list(last)
    if len(wanted.index) > leading:
        raise InputError(
            "more indices than leading axes", where="--index", value=len(wanted.index), allowed=str(leading)
        )
    for axis, number in reversed(list(enumerate(wanted.index))):
        if number is not None:
            if not 0 <= number < array.shape[axis]:
                raise InputError(
                    "no such index", where="--index", value=number, allowed=f"0 to {array.shape[axis] - 1}"
                )
            array = np.asarray(array.take(number, axis=axis))
            del names[axis]
    for axis, (name, size) in enumerate(zip(names, array.shape, strict=True)):
        if name in ("receiver", "transmitter", "batch") and size > 1:
            raise InputError(
                f"the array holds several links: its axes are {', '.join(names)}",
                where=str(path),
                value=f"{size} along axis {axis} ({name})",
                fix="Choose one: --index, for example 0,:,0 (a colon keeps an axis).",
            )
    power = np.abs(array.astype(np.complex128)) ** 2
    over = [axis for axis, name in enumerate(names) if name not in ("paths", "time")]
    paths = [axis for axis, name in enumerate(names) if name == "paths"]
    gains = np.asarray(power.mean(axis=tuple(over), keepdims=True).sum(axis=tuple(paths), keepdims=True).ravel())
    if gains.size < 2 or not np.all(np.isfinite(gains)):
        raise InputError(
            "coefficients over time are needed, all of them finite",
            where=str(path),
            value=_holds({"coefficients": array}),
            fix=f"Its last axes are taken as {', '.join(last)}; --axes says otherwise.",
        )
    return gains


def _times(columns: Mapping[str, Array], name: str, steps: int, wanted: Wanted, path: Path) -> Floats:
    """Shape (steps,), from 0."""
    if not name:
        if wanted.step_seconds is None:
            raise InputError(
                "the array says nothing of time", where=str(path), value=f"{steps} steps", fix="Say it: --step '10 ms'."
            )
        return np.arange(steps, dtype=np.float64) * wanted.step_seconds
    times = np.squeeze(_array(columns, name, path)).astype(np.float64)
    if times.shape != (steps,) or not np.all(np.isfinite(times)):
        raise InputError(
            "one finite time for each step", where=f"{path}, {name}", value=times.shape, allowed=f"({steps},)"
        )
    return seconds_from_first(times, wanted.time_unit, name)[0]
