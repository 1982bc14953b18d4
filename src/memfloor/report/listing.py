"""A row for each record of any kind, as text: the same in the terminal and in the web view."""

from memfloor.record import (
    Anatomy,
    ArmObservation,
    Cell,
    Comparison,
    ControlLoop,
    EnergyRun,
    Failure,
    Quality,
    Record,
    Run,
    Skip,
)
from memfloor.report.energy import energy_text
from memfloor.report.tables import runtime_label, workload_text
from memfloor.units import format_bandwidth, format_seconds

LISTING_COLUMNS = (
    "taken at (UTC)",
    "kind",
    "model",
    "runtime",
    "context",
    "block",
    "p50",
    "ceiling",
    "device or reason",
)


def cells_of(record: Record) -> list[Cell]:
    """Return the cells that a record is about; of a comparison both, the candidate first."""
    return [record.candidate, record.baseline] if isinstance(record, Comparison) else [record.cell]


def listing_row(record: Record) -> list[str]:
    """Return the row of a record of any kind."""
    cell = cells_of(record)[0]
    return [
        record.taken_at[:19].replace("T", " "),
        record.kind,
        cell.spec.name,
        " over ".join(map(runtime_label, cells_of(record))),
        workload_text(cell),
        *_facts(record),
    ]


def _facts(record: Record) -> list[str]:
    """Return block, median step, ceiling, and the device or what else there is to say."""
    block = "-" if isinstance(record, Comparison | ArmObservation | Quality) else str(record.block)
    if isinstance(record, Run | Anatomy):
        ceiling = format_bandwidth(record.ceiling_bytes_per_second)
        return [block, format_seconds(record.p50_seconds), ceiling, record.environment.device.name]
    return [block, "-", "-", _words(record)]


def _words(
    record: Failure | Skip | Comparison | ArmObservation | Quality | EnergyRun | ControlLoop,
) -> str:
    match record:
        case Failure():
            return f"{record.cause}: {record.last_words}"
        case Skip():
            return record.reason
        case Comparison():
            return f"{record.question}, {record.planned_runs} blocks planned"
        case ArmObservation():
            traced = f"{len(record.trace.step_seconds)} steps traced" if record.trace else f"{record.trace_problem}"
            return f"the {record.arm}: {traced}"
        case EnergyRun():
            return energy_text(record)
        case Quality():
            return f"{record.path}: {record.problem or f'{record.tokens} tokens'}"
        case ControlLoop():
            cycles = f"{len(record.cycles.ticks)} cycles of {format_seconds(record.period_seconds)}"
            end = f", {record.interrupted}" if record.interrupted else ""
            return f"{cycles}, {record.environment.device.name}{end}"
