"""What is done with a campaign: planned, computed, looked at, summarised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.campaign.executor import Executor
from testbed.campaign.points import Campaign, points_of
from testbed.campaign.prepare import Task, prepare
from testbed.campaign.results import Cell, Contrast, cells_of, contrasts_of, results_of
from testbed.campaign.run import Progress, Standing, compute, standings
from testbed.campaign.store import Store
from testbed.campaign.tables import write_points, write_tables

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Conclusion:
    """What a campaign has brought so far."""

    standings: Sequence[Standing]
    cells: Sequence[Cell]
    contrasts: Sequence[Contrast]
    figures: Sequence[Path]
    tables: Sequence[Path]

    def of(self, state: str) -> list[Standing]:
        return [standing for standing in self.standings if standing.state == state]


def default_folder(campaign: Campaign) -> Path:
    """The same every time, so that the next ``run`` goes on."""
    return Path("runs") / f"campaign-{campaign.spec.name}"


def run_campaign(
    campaign: Campaign,
    folder: Path,
    executor: Executor,
    notify: Notify,
    progress: Callable[[Progress], None],
) -> Conclusion:
    """Compute what is not done, then tables and figures.

    Raises InputError, before anything is computed, for a lab that is refused.
    """
    store = Store(folder)
    try:
        executor.expect(sum(point.where == "simulator" for point in points_of(campaign)))
        tasks = prepare(campaign, store, notify, measure=True)
    except BaseException:
        executor.close()
        raise
    compute(tasks, store, executor, campaign.spec.retries, progress)
    return conclude_campaign(campaign, tasks, store)


def conclude_campaign(campaign: Campaign, tasks: Sequence[Task], store: Store) -> Conclusion:
    """Tables and figures of what is done, in ``tables/`` and ``figures/``, and ``points.csv``."""
    from testbed.campaign.figures import draw_figures  # matplotlib

    found = standings(tasks, store)
    results = results_of(found, store)
    cells = cells_of(campaign, results)
    contrasts = contrasts_of(campaign, cells)
    tables: list[Path] = []
    figures: list[Path] = []
    if results:
        write_points(results, store.folder / "points.csv")
        tables = write_tables(cells, contrasts, store.folder / "tables")
        figures = draw_figures(campaign, cells, store, store.folder / "figures")
    return Conclusion(found, cells, contrasts, figures, tables)
