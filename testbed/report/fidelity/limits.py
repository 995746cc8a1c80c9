"""What figures of a run are taken of. Their limits stand at each figure's declaration, and in docs/fidelity.md."""

from __future__ import annotations

from typing import Final, Literal

NOT_MEASURED: Final = "not_measured"
Value = float | Literal["not_measured"]

#: After the arrivals end, what is in flight may finish for so long; what has not by then is counted as in flight.
DRAIN_SECONDS = 10.0
#: Delays are of completed tasks: when more than this part of the arrived is not among them, their mean is censored.
CENSORED_RATIO = 0.01
#: Stages with shorter targets are not judged: the same as in a run's fidelity report.
JUDGED_STAGE_SECONDS = 0.005
