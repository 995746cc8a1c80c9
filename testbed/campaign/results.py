"""Points put together: over repetitions (seeds) for each policy and setting, and policies against the baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from testbed.campaign.measures import MEASURES, Measured
from testbed.campaign.points import Campaign, Point
from testbed.campaign.run import Standing
from testbed.campaign.schema import POLICY
from testbed.campaign.statistics import Comparison, Estimate, compare_pairs, estimate
from testbed.campaign.store import Store


@dataclass(frozen=True)
class Result:
    """A point that has one."""

    point: Point
    key: str
    valid: bool
    measured: Measured


@dataclass(frozen=True)
class Cell:
    """What is equal but for the key that runs are repeated over."""

    settings: tuple[tuple[str, str], ...]  # "where" and "lab" too
    results: tuple[Result, ...]  # valid ones
    invalid: int
    estimates: Mapping[str, Estimate]  # by measure

    @property
    def marks(self) -> list[str]:
        """What a reader of its means has to know."""
        censored = sum(result.measured.censored for result in self.results)
        unstable = sum(result.measured.unstable for result in self.results)
        counts = {"censored": censored, "unstable": unstable, "invalid, left out": self.invalid}
        return [f"{number} {what}" for what, number in counts.items() if number]

    @property
    def censored(self) -> bool:
        """Slow tasks are missing in a run of it: its delays are too low."""
        return any(result.measured.censored for result in self.results)

    def setting(self, key: str) -> str:
        return dict(self.settings).get(key, "")


@dataclass(frozen=True)
class Contrast:
    """A policy against the baseline, the other settings being equal."""

    settings: tuple[tuple[str, str], ...]
    policy: str
    baseline: str
    measure: str
    comparison: Comparison
    censored: bool


def results_of(standings: Sequence[Standing], store: Store) -> list[Result]:
    """Of the points that are done, valid or not."""
    return [
        Result(one.task.point, one.task.key, one.state == "done", store.measured(one.task.key))
        for one in standings
        if one.state in ("done", "invalid")
    ]


def cells_of(campaign: Campaign, results: Sequence[Result]) -> list[Cell]:
    """In the order of the points."""
    groups: dict[tuple[tuple[str, str], ...], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.point.without(campaign.spec.pair)].append(result)
    return [
        Cell(
            settings=settings,
            results=tuple(result for result in group if result.valid),
            invalid=sum(not result.valid for result in group),
            estimates={
                name: estimate(values) for name in MEASURES if (values := _values([r for r in group if r.valid], name))
            },
        )
        for settings, group in groups.items()
    ]


def _values(results: Sequence[Result], name: str) -> list[float]:
    values = [result.measured.values[name] for result in results]
    return [value for value in values if value is not None]


def contrasts_of(campaign: Campaign, cells: Sequence[Cell]) -> list[Contrast]:
    """Policies against the baseline in pairs; empty where there is one policy only, or nothing to pair."""
    policies = list(dict.fromkeys(cell.setting(POLICY) for cell in cells))
    if len(policies) < 2:
        return []
    baseline = campaign.spec.baseline or policies[0]
    by_settings = {cell.settings: cell for cell in cells}
    found = []
    for cell in cells:
        if cell.setting(POLICY) == baseline:
            continue
        settings = tuple((key, baseline if key == POLICY else value) for key, value in cell.settings)
        reference = by_settings.get(settings)
        for name in MEASURES if reference is not None else ():
            assert reference is not None
            ours, theirs = _paired(cell, reference, campaign.spec.pair, name)
            if ours:
                found.append(
                    Contrast(
                        settings=tuple(pair for pair in cell.settings if pair[0] != POLICY),
                        policy=cell.setting(POLICY),
                        baseline=baseline,
                        measure=name,
                        comparison=compare_pairs(ours, theirs),
                        censored=MEASURES[name].of_delays and (cell.censored or reference.censored),
                    )
                )
    return found


def _paired(cell: Cell, reference: Cell, pair: str, name: str) -> tuple[list[float], list[float]]:
    """Values of both where both have a valid one."""
    theirs = {result.point.settings.get(pair): result.measured.values[name] for result in reference.results}
    pairs = [
        (mine, other)
        for result in cell.results
        if (mine := result.measured.values[name]) is not None
        and (other := theirs.get(result.point.settings.get(pair))) is not None
    ]
    return [mine for mine, _ in pairs], [other for _, other in pairs]
