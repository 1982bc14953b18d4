"""The table that gpu_study.py ends with: a line per cell, and a line per term of each anatomy's ledger."""

from collections.abc import Iterator, Sequence

from gpu_study_stages import AnatomyStage, RunStage

from memfloor.record import Cell, Run
from memfloor.report.ledger import ledger_checks, ledger_rows, make_ledgers
from memfloor.report.sentences import cautions
from memfloor.report.summary import CellSummary, summarise
from memfloor.report.tables import percent_interval, runtime_label, seconds_interval
from memfloor.stats import paired_ratio
from memfloor.units import format_percent, format_seconds

COLUMNS = ("cell", "N", "p50", "95 % CI", "of ceiling", "of peak", "p99/p50", "baseline / it")


def table(stage: RunStage | AnatomyStage) -> list[str]:
    """Return what a stage found out, in lines; empty where it has no record."""
    if isinstance(stage, AnatomyStage):
        return list(_ledger_lines(stage))
    measured, invalid = summarise(stage.records())
    if not measured and not invalid:
        return []
    rows = [COLUMNS, *(_row(summary, stage, measured) for summary in measured)]
    rows += [(_name(cell.cell), "0", f"invalid: {cell.reason}") for cell in invalid]
    left = stage.missing()
    names = ", ".join(dict.fromkeys(stage.baseline.values()))
    title = f"{stage.name}, against {names}; {f'{left} runs are missing' if left else 'complete'}"
    return [title, *_aligned(rows), *(f"  ! {text}" for text in cautions(measured))]


def _row(summary: CellSummary, stage: RunStage, measured: Sequence[CellSummary]) -> tuple[str, ...]:
    streamed = summary.fractions["streamed"]
    return (
        _name(summary.cell),
        str(len(summary.runs)),
        format_seconds(summary.p50_seconds.value),
        seconds_interval(summary.p50_seconds),
        percent_interval(streamed.ceiling),
        format_percent(streamed.peak.value) if streamed.peak else "-",
        f"{max(_jitter(run) for run in summary.runs):.3f}",
        _ratio(summary, stage, measured),
    )


def _ratio(summary: CellSummary, stage: RunStage, measured: Sequence[CellSummary]) -> str:
    """Return how many times as long the baseline of a cell takes, paired by block."""
    name = stage.baseline.get(summary.cell.runtime, stage.baseline.get("*", ""))
    point = stage.compared(summary.cell)
    base = [other for other in measured if other.cell.runtime_text == name and stage.compared(other.cell) == point]
    if not base or base[0] is summary:
        return "-"
    arms = [{run.block: run.p50_seconds for run in arm.runs} for arm in (base[0], summary)]
    if not arms[0].keys() & arms[1].keys():
        return "-"
    ratio = paired_ratio(*arms)
    return f"{ratio.value:.3f}" + (f" [{ratio.ci95[0]:.3f}, {ratio.ci95[1]:.3f}]" if ratio.ci95 else "")


def _jitter(run: Run) -> float:
    """Return the run's slowest step but those beyond its 99th percentile, over its median."""
    ordered = sorted(run.step_seconds)
    return ordered[round(0.99 * (len(ordered) - 1))] / run.p50_seconds


def _name(cell: Cell) -> str:
    batch = f" x{cell.workload.batch}" if cell.workload.batch > 1 else ""
    return f"{cell.spec.name} {cell.workload.context_len}{batch} {runtime_label(cell)}"


def _ledger_lines(stage: AnatomyStage) -> Iterator[str]:
    if not stage.store.folder.is_dir():
        return
    for ledger in make_ledgers(stage.store.anatomies()):
        yield f"anatomy of {_name(ledger.anatomies[0].cell)}, {len(ledger.anatomies)} taken"
        yield from _aligned([tuple(row[:4]) for row in ledger_rows(ledger)])
        yield from (f"  {text}" for text in ledger_checks(ledger))


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    # A reason stands in place of the figures and makes no column wider.
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(len(row[column]) for row in whole) for column in range(len(rows[0]))]
    return ["  " + "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=False)) for row in rows]
