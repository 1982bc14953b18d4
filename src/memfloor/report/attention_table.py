"""Rows of attention backends, as text: the same in the terminal and on the page."""

from memfloor.report.attention import AttentionRow
from memfloor.report.by_cell import InvalidCell
from memfloor.report.comparison_tables import ratio_interval
from memfloor.report.tables import percent_interval, seconds_interval, workload_text
from memfloor.units import format_bytes, format_seconds

ATTENTION_COLUMNS = (
    "model",
    "backend",
    "context",
    "p50 a layer",
    "95 % CI",
    "bytes a layer",
    "of ceiling",
    "error",
    "largest error",
    "speed-up over sdpa",
    "95 % CI",
    "runs",
    "verdict",
)
# Characters that all columns but the model take, and which of these fit a narrow terminal, by place.
WIDE_TABLE = 180
NARROW = (0, 1, 2, 5, 8, 11)


def attention_row(row: AttentionRow) -> list[str]:
    """Return the row of a backend; a missing figure is a dash, never a zero."""
    cell, error = row.summary.cell, row.error
    return [
        cell.spec.name,
        cell.runtime_text,
        workload_text(cell),
        format_seconds(row.seconds.value),
        seconds_interval(row.seconds),
        format_bytes(row.layer_bytes),
        percent_interval(row.ceiling),
        f"{error.relative_norm:.1e}" if error else "-",
        f"{error.max_abs:.1e}" if error else "-",
        f"{row.ratio.value:.3f}" if row.ratio else "-",
        ratio_interval(row.ratio),
        str(len(row.summary.runs)),
        row.verdict,
    ]


def row_title(row: AttentionRow) -> str:
    """Return the backend and context of a row."""
    return f"{row.summary.cell.runtime_text} at context {workload_text(row.summary.cell)}"


def skipped_row(lost: InvalidCell) -> list[str]:
    """Return the row of a backend that gave no times: its reason stands in place of every figure."""
    cell = lost.cell
    return [cell.spec.name, cell.runtime_text, workload_text(cell), f"not run: {lost.reason}"]
