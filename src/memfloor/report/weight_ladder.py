"""Paths of weights beside one baseline: the bytes each should save, the time it saves, who owns the rest, and quality.

Source of the share realised: docs/method.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from memfloor.floor import StepTraffic, step_traffic
from memfloor.record import Cell, Comparison, Contents, Quality, Run
from memfloor.report.compared import Compared, compare
from memfloor.report.ledger import Ledger, make_ledger
from memfloor.report.qualities import quality_json
from memfloor.report.summary import CellSummary, summarise_cell
from memfloor.report.tables import runtime_label
from memfloor.spec import weight_format
from memfloor.stats import BlockMean, block_mean

# What qualities call the cell that all paths are compared with, and float32 arithmetic over the same weights.
BASELINE, FLOAT32 = "baseline", "float32"
# Facts of a runtime by which two run the same modules over the same cache, launched alike.
SAME_SOURCE = ("model_class", "cache_class", "launch")
# How a runtime's fact `path` begins where other kernels multiplied than those that were asked for, or that read
# quantised weights as they lie in memory.
ASTRAY = ("unpacked", "mixed", "unseen", "not ", "NOT AS ASKED")


@dataclass(frozen=True, slots=True)
class Saving:
    """Hold what one path should save over another, and what it saves.

    Attributes:
        over: Name of the other.
        promised: Its bytes over this path's: the speed-up if both took nothing but the time of their bytes.
        realised: The time saved over the time that the bytes saved take at the paired ceiling, by block; None where no
            bytes are saved or no block has both.
    """

    over: str
    promised: float
    realised: BlockMean | None


@dataclass(frozen=True, slots=True)
class WeightRow:
    """Hold what the records of one session say of one path, or of the baseline.

    Attributes:
        name: What it was asked for as.
        cell: Its cell.
        runs: Its runs, in the order of blocks.
        lost: Why it has none; None if it has.
        compared: The comparison with the baseline; None for the baseline.
        saving: Over the baseline; None for the baseline.
        own_saving: Over the same runtime with 16-bit weights, which is what the format alone does; None where that was
            not measured or is the baseline.
        ledger: Who owns its time; None where no anatomy was taken.
        untraced: Why none could be.
        quality: Its quality; None where none was taken.
    """

    name: str
    cell: Cell
    runs: tuple[Run, ...]
    lost: str | None
    compared: Compared | None
    saving: Saving | None
    own_saving: Saving | None
    ledger: Ledger | None
    untraced: str | None
    quality: Quality | None

    @property
    def traffic(self) -> StepTraffic:
        """Return the bytes that a step must read, by cause."""
        return step_traffic(self.cell.spec, self.cell.workload)

    @property
    def kernels(self) -> str | None:
        """Return what multiplied its weights, as its last run's census saw it; None where the runtime does not say."""
        return self.runs[-1].path.facts.get("path") if self.runs else None

    @property
    def astray(self) -> bool:
        """Tell whether these are others than it was taken for."""
        return self.kernels is not None and self.kernels.startswith(ASTRAY)

    @property
    def summary(self) -> CellSummary | None:
        """Return its step and its share of the ceiling; None without runs."""
        return summarise_cell(self.runs) if self.runs else None

    @property
    def wide_head_bytes(self) -> int:
        """Return the bytes of a head that stays 16 bits wide beside quantised weights."""
        weights, head = (weight_format(name) for name in (self.cell.workload.weights, self.cell.workload.head))
        return self.traffic.head if weights.is_quantized and not head.is_quantized else 0

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data for `--json`."""
        summary = self.summary
        step = summary.p50_seconds if summary else None
        return {
            "path": self.name,
            "runtime": runtime_label(self.cell),
            "step_seconds": step.value if step else None,
            "step_ci95_seconds": step.ci95 if step else None,
            "fraction_of_ceiling": summary.fractions["streamed"].ceiling.value if summary else None,
            "bytes": self.traffic.by_cause() | {"total": self.traffic.total_bytes},
            "wide_head_bytes": self.wide_head_bytes,
            "kernels": self.kernels,
            "astray": self.astray,
            "saving": _saving_json(self.saving),
            "own_saving": _saving_json(self.own_saving),
            "ledger": self.ledger.to_json() if self.ledger else None,
            "untraced": self.untraced,
            "quality": quality_json(self.quality) if self.quality else None,
            "lost": self.lost,
            "comparison": self.compared.to_json() if self.compared else None,
        }


@dataclass(frozen=True, slots=True)
class WeightLadder:
    """Hold all paths of one session at one context and batch size.

    Attributes:
        baseline: What all are compared with.
        paths: All others, those of most bytes first.
        float32: Quality of float32 arithmetic over the same weights: the noise of bf16; None where none was taken.
    """

    baseline: WeightRow
    paths: tuple[WeightRow, ...]
    float32: Quality | None

    @property
    def rows(self) -> list[WeightRow]:
        """Return the baseline and all paths."""
        return [self.baseline, *self.paths]

    def to_json(self) -> dict[str, Any]:
        """Return the ladder as plain data for `--json`."""
        cell = self.baseline.cell
        return {
            "model": cell.spec.name,
            "context": cell.workload.context_len,
            "batch": cell.workload.batch,
            "baseline": self.baseline.to_json(),
            "paths": [row.to_json() for row in self.paths],
            "float32": quality_json(self.float32) if self.float32 else None,
        }


def ladders_in(found: Contents) -> list[WeightLadder]:
    """Return the ladders of a folder: of each session that took paths of weights, one for each context and batch."""
    said = [item for item in found.comparisons if item.question == "weights"]
    return [_ladder(comparisons, found) for comparisons in _grouped(said)]


def saving(name: str, over: tuple[Cell, Sequence[Run]], path: tuple[Cell, Sequence[Run]]) -> Saving:
    """Return what a path saves over another.

    Each block gives the share: the time that each arm took, as the bytes that its own paired ceiling would have read in
    it, less the other's, over the bytes saved. Arms that met different bandwidth are so compared as if they met one.

    Args:
        name: Of the other.
        over: The other's cell and runs.
        path: The path's.
    """
    ours, theirs = (step_traffic(cell.spec, cell.workload).total_bytes for cell, _ in (over, path))
    took, takes = ({run.block: 1 / run.fraction_of_ceiling(1) for run in runs} for _, runs in (over, path))
    blocks = sorted(took.keys() & takes.keys())
    if not blocks or ours <= theirs:
        return Saving(name, ours / theirs, None)
    shares = [(took[block] - takes[block]) / (ours - theirs) for block in blocks]
    return Saving(name, ours / theirs, block_mean(shares))


@dataclass(frozen=True, slots=True)
class _Member:
    """Hold a cell of a ladder, with its runs."""

    name: str
    cell: Cell
    runs: tuple[Run, ...]
    compared: Compared | None = None


def _ladder(comparisons: Sequence[Comparison], found: Contents) -> WeightLadder:
    session = found.of_session(comparisons[0].session_id)
    compared = compare(comparisons, session.observations, session.runs)
    baseline = _Member(BASELINE, compared[0].baseline, compared[0].baseline_runs)
    paths = [
        _Member(said.path or runtime_label(item.candidate), item.candidate, item.candidate_runs, item)
        for said, item in zip(comparisons, compared, strict=True)
    ]
    # Records taken in one millisecond have no order of their own.
    paths.sort(key=lambda path: (-step_traffic(path.cell.spec, path.cell.workload).total_bytes, path.name))
    rows = [_row(member, [baseline, *paths], session) for member in (baseline, *paths)]
    float32 = [quality for quality in session.qualities if quality.path == FLOAT32]
    return WeightLadder(rows[0], tuple(rows[1:]), float32[-1] if float32 else None)


def _row(member: _Member, members: Sequence[_Member], session: Contents) -> WeightRow:
    key, baseline = member.cell.key, members[0]
    anatomies = [item for item in session.anatomies if item.cell.key == key]
    problems = [item.trace_problem for item in session.observations if item.cell.key == key]
    lost = [item for item in session.runs if item.cell.key == key and not isinstance(item, Run)]
    qualities = [item for item in session.qualities if item.path == member.name]
    source = _source(member, members)
    return WeightRow(
        name=member.name,
        cell=member.cell,
        runs=member.runs,
        lost=lost[-1].lost_reason if lost and not member.runs else None,
        compared=member.compared,
        saving=None if member is baseline else _saving(baseline, member),
        own_saving=_saving(source, member) if source and source is not baseline else None,
        ledger=make_ledger(anatomies) if anatomies else None,
        untraced=problems[-1] if problems else None,
        quality=qualities[-1] if qualities else None,
    )


def _saving(over: _Member, path: _Member) -> Saving:
    return saving(over.name, (over.cell, over.runs), (path.cell, path.runs))


def _source(path: _Member, members: Sequence[_Member]) -> _Member | None:
    """Return the same runtime with 16-bit weights, or the one whose modules it took and launched alike."""
    if not weight_format(path.cell.workload.weights).is_quantized:
        return None
    wide = [item for item in members if not weight_format(item.cell.workload.weights).is_quantized]
    same = [item for item in wide if item.cell.runtime_text == path.cell.runtime_text]
    facts = _facts(path)
    alike = [item for item in wide if facts and _facts(item) == facts]
    return next(iter(same + alike), None)


def _facts(member: _Member) -> tuple[str | None, ...] | None:
    facts = member.runs[0].path.facts if member.runs else {}
    return tuple(facts.get(name) for name in SAME_SOURCE) if SAME_SOURCE[0] in facts else None


def _saving_json(found: Saving | None) -> dict[str, Any] | None:
    if found is None:
        return None
    realised = found.realised
    return {
        "over": found.over,
        "promised": found.promised,
        "share_realised": realised.value if realised else None,
        "share_realised_ci95": realised.ci95 if realised else None,
    }


def _grouped(items: Iterable[Comparison]) -> list[list[Comparison]]:
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for item in items:
        groups.setdefault((item.session_id, item.baseline.key), []).append(item)
    return list(groups.values())
