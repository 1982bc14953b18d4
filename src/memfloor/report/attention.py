"""What the records say of attention backends: time per layer, distance from the floor and from float32, a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memfloor.record import Cell, Comparison, Contents, Failure, OutputError, Run, Skip
from memfloor.report.by_cell import InvalidCell
from memfloor.report.compared import Compared, compare
from memfloor.report.sentences import cautions
from memfloor.report.summary import CellSummary, summarise
from memfloor.report.tables import workload_text
from memfloor.report.verdicts import REFUSED
from memfloor.stats import Estimate, Ratio, estimate

BASELINE_VERDICT = "baseline"
ALONE_VERDICT = "not compared"
# Scores, weights, partial sums and the result may each be rounded to bf16: scores of a few units to 2**-8 of one, the
# others to 2**-9 of themselves, which adds up to less than this share of the result.
OUTPUT_TOLERANCE = 2.0**-6


@dataclass(frozen=True, slots=True)
class AttentionRow:
    """Hold what the runs of one backend at one context, batch size and device say.

    Attributes:
        summary: Of all layers of a step together.
        compared: With torch's own choice; None for that itself, or where nothing was said before.
        is_baseline: Whether others are compared with it.
    """

    summary: CellSummary
    compared: Compared | None
    is_baseline: bool

    @property
    def layers(self) -> int:
        """Return the layers of a step."""
        return self.summary.cell.spec.num_hidden_layers

    @property
    def seconds(self) -> Estimate:
        """Return the median step over its layers, with the interval over runs."""
        return estimate(self.summary.runs, lambda run: run.p50_seconds / self.layers)

    @property
    def layer_bytes(self) -> float:
        """Return the bytes that a layer must read, the mean over layers."""
        return self.summary.fractions["streamed"].total_bytes / self.layers

    @property
    def ceiling(self) -> Estimate:
        """Return the share of the paired ceiling."""
        return self.summary.fractions["streamed"].ceiling

    @property
    def floor_seconds(self) -> float:
        """Return the time of a layer at the paired ceiling."""
        return self.ceiling.value * self.seconds.value

    @property
    def error(self) -> OutputError | None:
        """Return the largest error of its runs against float32; None where none was recorded."""
        found = [run.path.output_error for run in self.summary.runs if run.path.output_error]
        return max(found, key=lambda error: error.relative_norm, default=None)

    @property
    def ratio(self) -> Ratio | None:
        """Return the baseline's time over its own, paired by block; None where there is none."""
        return self.compared.ratio if self.compared else None

    @property
    def plan_seconds(self) -> float | None:
        """Return the largest time that planning took outside the timed steps; None where nothing is planned."""
        return max((run.path.plan_seconds for run in self.summary.runs if run.path.plan_seconds), default=None)

    @property
    def flags(self) -> list[str]:
        """Return what ran otherwise than asked, and what a reader must know of how it ran."""
        facts = self.summary.runs[-1].path.facts
        found = [self._other_path] if self._other_path else []
        if facts.get("kv_copies", "none") != "none":
            found.append(f"copies keys or values in every step: {facts['kv_copies']}")
        if facts.get("recompiles_after_warm_up", "0") != "0":
            found.append(f"{facts['recompiles_after_warm_up']} recompilations after warm-up")
        return found

    @property
    def verdict(self) -> str:
        """Return what its ratio says, or why nothing may be said of it."""
        if self._other_path:
            return f"{REFUSED}: {self._other_path}"
        if self.error and self.error.relative_norm > OUTPUT_TOLERANCE:
            return (
                f"{REFUSED}: its result is {self.error.relative_norm:.2g} from float32, beyond {OUTPUT_TOLERANCE:.2g}"
            )
        if self.is_baseline:
            return BASELINE_VERDICT
        return self.compared.verdict if self.compared else ALONE_VERDICT

    @property
    def refused(self) -> bool:
        """Tell whether the verdict is refused."""
        return self.verdict.startswith(REFUSED)

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data for `--json`."""
        cell, error, ratio = self.summary.cell, self.error, self.ratio
        return {
            **_identity(cell),
            "device": self.summary.device.name,
            "runs": len(self.summary.runs),
            "layers": self.layers,
            "p50_seconds_per_layer": self.seconds.value,
            "ci95_seconds_per_layer": self.seconds.ci95,
            "bytes_per_layer": self.layer_bytes,
            "fraction_of_ceiling": self.ceiling.value,
            "fraction_of_ceiling_ci95": self.ceiling.ci95,
            "error_relative_norm": error.relative_norm if error else None,
            "error_max_abs": error.max_abs if error else None,
            "plan_seconds": self.plan_seconds,
            "ratio": ratio.value if ratio else None,
            "ratio_ci95": ratio.ci95 if ratio else None,
            "verdict": self.verdict,
            "flags": self.flags,
            "path": self.summary.runs[-1].path.facts,
            "skipped": None,
        }

    @property
    def _other_path(self) -> str | None:
        facts = self.summary.runs[-1].path.facts
        asked, ran = facts.get("asked", "default"), facts.get("ran", "default")
        return None if asked in ("default", ran) else f"{asked} was asked for and {ran} ran"


@dataclass(frozen=True, slots=True)
class Attention:
    """Hold all that records say of attention backends, by device, model, context and batch size."""

    rows: tuple[AttentionRow, ...] = ()
    invalid: tuple[InvalidCell, ...] = ()

    @property
    def cautions(self) -> list[str]:
        """Return what a reader must know before trusting a row, a sentence each."""
        said = cautions([row.summary for row in self.rows])
        flagged = [
            f"{row.summary.cell.runtime_text} at context {workload_text(row.summary.cell)}: {flag}."
            for row in self.rows
            for flag in row.flags
        ]
        return said + flagged


def lost_json(lost: InvalidCell) -> dict[str, Any]:
    """Return a backend that gave no times as plain data for `--json`, with the reason."""
    return _identity(lost.cell) | {
        "device": lost.device.name if lost.device else None,
        "runs": 0,
        "skipped": lost.reason,
    }


def attention_in(found: Contents) -> Attention:
    """Return what a folder says of attention backends."""
    own = found.of("attention")
    return attention_of(own.comparisons, own.runs)


def attention_of(comparisons: Sequence[Comparison], records: Sequence[Run | Failure | Skip]) -> Attention:
    """Return what records of attention say; a cell that was compared more than once stands in its last comparison.

    Args:
        comparisons: What was said before the runs.
        records: Runs, failures and skips, all of attention.
    """
    summaries, invalid = summarise(records)
    compared = compare(comparisons, [], records)
    baselines = {item.baseline.key for item in compared}
    rows = [
        AttentionRow(summary, _comparison(summary, compared), summary.cell.key in baselines) for summary in summaries
    ]
    return Attention(tuple(sorted(rows, key=_order)), tuple(invalid))


def _identity(cell: Cell) -> dict[str, Any]:
    return {
        "backend": cell.runtime_text,
        "model": cell.spec.name,
        "context": cell.workload.context_len,
        "batch": cell.workload.batch,
    }


def _comparison(summary: CellSummary, compared: Sequence[Compared]) -> Compared | None:
    ran = {run.record_id for run in summary.runs}
    mine = [item for item in compared if any(run.record_id in ran for run in item.candidate_runs)]
    return mine[-1] if mine else None


def _order(row: AttentionRow) -> tuple[str, str, int, int, float]:
    workload = row.summary.cell.workload
    name = row.summary.device.name, row.summary.cell.spec.name
    return (*name, workload.context_len, workload.batch, row.seconds.value)
