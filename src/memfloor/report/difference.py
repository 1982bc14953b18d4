"""What has changed between two sets of records, cell by cell: the same cells of two folders or of two commits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memfloor.record import Cell, DifferingField, Failure, Protocol, Run, Skip
from memfloor.report.bandwidths import EqualBandwidth, at_equal_bandwidth_unpaired
from memfloor.report.environments import environment_differences
from memfloor.report.summary import CellSummary, summarise
from memfloor.report.tables import runtime_label, workload_text
from memfloor.report.verdicts import judge
from memfloor.stats import Ratio, unpaired_ratio
from memfloor.units import format_seconds

DIFFERENCE_COLUMNS = (
    "model",
    "runtime",
    "context",
    "device",
    "before",
    "after",
    "speed-up",
    "95 % CI",
    "runs",
    "verdict",
)
# What two sets may differ in without a word: that is what they are compared for.
EXPECTED: tuple[DifferingField, ...] = ("commit",)


@dataclass(frozen=True, slots=True)
class Difference:
    """Hold one cell of one device in both sets.

    Attributes:
        before: Its summary in the first set.
        after: Its summary in the second.
        ratio: Time before over time after; above 1 is faster.
        equal_bandwidth: What it would be had both met one bandwidth.
        verdict: `faster`, `slower`, `equivalent` or `unclear`, of the second set.
        environment: What else differs between the runs, commits apart.
    """

    before: CellSummary
    after: CellSummary
    ratio: Ratio
    equal_bandwidth: EqualBandwidth
    verdict: str
    environment: tuple[str, ...]

    @property
    def word(self) -> str:
        """Return the verdict without the sentence that says why."""
        return self.verdict.partition(":")[0]

    def to_json(self) -> dict[str, Any]:
        """Return the difference as plain data for `--json`."""
        cell = self.after.cell
        return {
            "model": cell.spec.name,
            "runtime": runtime_label(cell),
            "context": cell.workload.context_len,
            "batch": cell.workload.batch,
            "device": self.after.device.name,
            "before_seconds": self.before.p50_seconds.value,
            "after_seconds": self.after.p50_seconds.value,
            "ratio": self.ratio.value,
            "ci95": self.ratio.ci95,
            "ratio_at_equal_bandwidth": self.equal_bandwidth.ratio.value,
            "ci95_at_equal_bandwidth": self.equal_bandwidth.ratio.ci95,
            "runs": [len(self.before.runs), len(self.after.runs)],
            "verdict": self.verdict,
            "environment": list(self.environment),
        }

    def row(self) -> list[str]:
        """Return the difference as a row of `DIFFERENCE_COLUMNS`."""
        cell, ci95 = self.after.cell, self.ratio.ci95
        return [
            cell.spec.name,
            runtime_label(cell),
            workload_text(cell),
            self.after.device.name,
            format_seconds(self.before.p50_seconds.value),
            format_seconds(self.after.p50_seconds.value),
            f"{self.ratio.value:.3f}",
            f"[{ci95[0]:.3f}, {ci95[1]:.3f}]" if ci95 else "-",
            f"{len(self.before.runs)} and {len(self.after.runs)}",
            self.verdict,
        ]


@dataclass(frozen=True, slots=True)
class Differences:
    """Hold all that two sets have in common, and the cells that only one of them has a time of."""

    cells: tuple[Difference, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    def having(self, verdicts: Sequence[str]) -> list[Difference]:
        """Return the cells whose verdict is one of these."""
        return [item for item in self.cells if item.word in verdicts]


def differences(
    before: Sequence[Run | Failure | Skip], after: Sequence[Run | Failure | Skip], margin: float
) -> Differences:
    """Return what has changed between two sets of records.

    Runs of different sets share no blocks, and a drift of the machine between them counts as a change; where their
    paired ceilings differ, the verdict is withheld unless the ratio at equal bandwidth has the same.

    Args:
        before: The first set.
        after: The second.
        margin: Share by which a cell may change and count as equivalent.
    """
    ours, theirs = _by_cell(before), _by_cell(after)
    return Differences(
        cells=tuple(difference(ours[key], theirs[key], margin) for key in ours if key in theirs),
        only_before=tuple(_name(item) for key, item in ours.items() if key not in theirs),
        only_after=tuple(_name(item) for key, item in theirs.items() if key not in ours),
    )


def difference(before: CellSummary, after: CellSummary, margin: float) -> Difference:
    """Return what lies between two cells, whose runs share no blocks.

    Args:
        before: The cell whose time is the numerator of the ratio.
        after: The other one.
        margin: Share by which their times may differ and count as equivalent.
    """
    ours, theirs = _runs(before), _runs(after)
    ratio = unpaired_ratio([run.p50_seconds for run in ours], [run.p50_seconds for run in theirs])
    equal = at_equal_bandwidth_unpaired(ours, theirs)
    return Difference(
        before=before,
        after=after,
        ratio=ratio,
        equal_bandwidth=equal,
        verdict=judge(ratio, equal, margin),
        environment=tuple(environment_differences([*ours, *theirs], EXPECTED)),
    )


def _by_cell(records: Sequence[Run | Failure | Skip]) -> dict[tuple[str, str, Protocol], CellSummary]:
    return {(item.cell.key, item.device.name, _runs(item)[0].protocol): item for item in summarise(records)[0]}


def _runs(summary: CellSummary) -> list[Run]:
    return [run for run in summary.runs if isinstance(run, Run)]


def _name(summary: CellSummary) -> str:
    cell: Cell = summary.cell
    return f"{cell.spec.name} {runtime_label(cell)} at {workload_text(cell)} on {summary.device.name}"
