"""What one direction of a wire does to packets besides its rate. Pure: how it is done is elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Distribution = Literal["normal", "uniform", "pareto", "paretonormal"]


@dataclass(frozen=True)
class GilbertElliott:
    """Losses in bursts: a good and a bad state; before each packet the state may change.

    ``p``: probability to go from good to bad; ``r``: from bad to good, so a visit to the bad state lasts 1/r packets in
    the mean; ``bad``, ``good``: losses in these states. (Gilbert 1960, Elliott 1963.)
    """

    p: float
    r: float
    bad: float = 1.0
    good: float = 0.0

    @property
    def loss_ratio(self) -> float:
        """Long-term mean."""
        in_bad = self.p / (self.p + self.r)
        return in_bad * self.bad + (1 - in_bad) * self.good

    @property
    def simple(self) -> bool:
        """Everything is lost in the bad state and nothing in the good one (Gilbert's model)."""
        return self.bad == 1.0 and self.good == 0.0


@dataclass(frozen=True)
class Impairment:
    """``jitter_seconds`` is the standard deviation of a normal (or pareto) delay, half the width of a uniform one."""

    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0
    #: packets that are lost independently of each other
    loss_ratio: float = 0.0
    distribution: Distribution = "normal"
    #: losses in bursts, instead of ``loss_ratio``
    bursts: GilbertElliott | None = None
    duplicate_ratio: float = 0.0
    #: packets with one flipped bit
    corrupt_ratio: float = 0.0
    #: packets that skip the delay, and so overtake
    reorder_ratio: float = 0.0

    @property
    def any(self) -> bool:
        return self != Impairment(distribution=self.distribution)

    @property
    def mean_loss_ratio(self) -> float:
        return self.loss_ratio if self.bursts is None else self.bursts.loss_ratio

    def netem_only(self) -> list[str]:
        """Names of what is asked here and only netem can do."""
        asked = {
            "corrupt": self.corrupt_ratio > 0,
            "reorder": self.reorder_ratio > 0,
            f"distribution {self.distribution}": self.distribution not in ("normal", "uniform"),
            "gilbert_elliott with losses that are not all in the bad state": self.bursts is not None
            and not self.bursts.simple,
        }
        return [name for name, is_asked in asked.items() if is_asked]

    def merged(
        self,
        delay_seconds: float | None = None,
        jitter_seconds: float | None = None,
        loss_ratio: float | None = None,
    ) -> Impairment:
        """With these instead; None leaves one as it is. A loss ratio also replaces bursts."""
        return replace(
            self,
            delay_seconds=self.delay_seconds if delay_seconds is None else delay_seconds,
            jitter_seconds=self.jitter_seconds if jitter_seconds is None else jitter_seconds,
            loss_ratio=self.loss_ratio if loss_ratio is None else loss_ratio,
            bursts=self.bursts if loss_ratio is None else None,
        )


UNIMPAIRED = Impairment()
