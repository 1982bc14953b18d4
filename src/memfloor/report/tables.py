"""Rows of the tables, as text: the same in the terminal and on the page."""

from memfloor.record import Cell
from memfloor.report.by_cell import InvalidCell
from memfloor.report.summary import CellSummary, Fraction
from memfloor.spec import unquantized
from memfloor.stats import Estimate
from memfloor.units import format_bandwidth, format_percent, format_seconds

CELL_COLUMNS = (
    "model",
    "runtime",
    "context",
    "p50",
    "95 % CI",
    "of ceiling",
    "paper / blocks",
    "of peak",
    "paper / blocks",
    "tokens/s",
    "ceiling",
    "runs",
    "CV",
)


# What fits a narrow terminal, by place.
NARROW = (0, 1, 2, 3, 5, 7)


def cell_row(summary: CellSummary) -> list[str]:
    """Return the row of a measured cell; a missing figure is a dash, never a zero."""
    fractions = summary.fractions
    return [
        summary.cell.spec.name,
        runtime_label(summary.cell),
        workload_text(summary.cell),
        format_seconds(summary.p50_seconds.value),
        seconds_interval(summary.p50_seconds),
        percent_interval(fractions["streamed"].ceiling),
        _pair(fractions["paper"].ceiling, fractions["blocks"].ceiling),
        _of_peak(fractions["streamed"]),
        _pair(fractions["paper"].peak, fractions["blocks"].peak),
        f"{summary.tokens_per_second:.4g}",
        format_bandwidth(summary.ceiling_bytes_per_second.value),
        str(len(summary.runs)),
        format_percent(summary.cv) if summary.cv is not None else "-",
    ]


def invalid_row(cell: InvalidCell) -> list[str]:
    """Return the row of a cell that gave no times: its reason stands in place of every figure."""
    return [cell.cell.spec.name, runtime_label(cell.cell), workload_text(cell.cell), f"invalid: {cell.reason}"]


def runtime_label(cell: Cell) -> str:
    """Return the runtime with its options, formats and part of a step, as far as they are not the study's own."""
    workload = cell.workload
    beside = unquantized(workload.weights)
    parts = [
        f",weights={workload.weights}" if workload.weights != "bf16" else "",
        f",head={workload.head}" if workload.head != beside else "",
        f",kv={workload.kv}" if workload.kv != beside else "",
        f" ({cell.arm})" if cell.arm else "",
        f" {cell.part}" if cell.part != "step" else "",
    ]
    return cell.runtime_text + "".join(parts)


def workload_text(cell: Cell) -> str:
    """Return context and batch size, such as `2048 x4`."""
    workload = cell.workload
    return str(workload.context_len) + (f" x{workload.batch}" if workload.batch > 1 else "")


def seconds_interval(estimate: Estimate) -> str:
    """Return an interval of times, or a dash for a single run."""
    if estimate.ci95 is None:
        return "-"
    low, high = map(format_seconds, estimate.ci95)
    number, _, unit = low.partition(" ")
    return f"{number} to {high}" if high.endswith(f" {unit}") else f"{low} to {high}"


def percent_interval(estimate: Estimate) -> str:
    """Return a fraction with its interval in percent."""
    if estimate.ci95 is None:
        return format_percent(estimate.value)
    low, high = (100 * bound for bound in estimate.ci95)
    return f"{format_percent(estimate.value)} [{low:.1f}, {high:.1f}]"


def _pair(paper: Estimate | None, blocks: Estimate | None) -> str:
    return f"{100 * paper.value:.1f} / {format_percent(blocks.value)}" if paper and blocks else "-"


def _of_peak(fraction: Fraction) -> str:
    return format_percent(fraction.peak.value) if fraction.peak else "-"
