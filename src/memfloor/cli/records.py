"""`memfloor runs` and `memfloor query`: look into a folder of records."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from memfloor.cli.output import print_json, print_table, print_wide_table
from memfloor.errors import UsageError
from memfloor.record import (
    Anatomy,
    ArmObservation,
    Cell,
    Comparison,
    Contents,
    ControlLoop,
    EnergyRun,
    Failure,
    Quality,
    Record,
    Run,
    Skip,
    Store,
    UnreadableFile,
)
from memfloor.report.energy import energy_text
from memfloor.report.tables import runtime_label, workload_text
from memfloor.units import format_bandwidth, format_seconds

if TYPE_CHECKING:
    from memfloor.report.sql import Tables

Records = list[Run | Failure | Skip]
Kind = Literal[
    "run",
    "failure",
    "skip",
    "anatomy",
    "comparison",
    "arm_observation",
    "quality",
    "energy",
    "control_loop",
]
RUNS_COLUMNS = ("taken at (UTC)", "kind", "model", "runtime", "context", "block", "p50", "ceiling", "device or reason")
# Characters that all columns take, and what fits a narrow terminal, by place.
WIDE_TABLE = 150
NARROW = (0, 1, 2, 3, 4, 6)


def runs(
    folder: Path,
    /,
    *,
    model: str | None = None,
    runtime: str | None = None,
    context: int | None = None,
    kind: Kind | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """List the records of a folder, oldest first.

    Args:
        folder: Folder with records.
        model: Only this model.
        runtime: Only this runtime.
        context: Only this context.
        kind: Only run, failure, skip, anatomy, comparison, arm_observation, quality, energy or control_loop.
        json: Print a JSON list of the whole records instead.
    """
    records = [
        record
        for record in read_contents(folder).every
        if kind in (None, record.kind) and any(_is_wanted(cell, model, runtime, context) for cell in _cells(record))
    ]
    if json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    print_wide_table(f"{len(records)} records in {folder}", RUNS_COLUMNS, map(_row, records), WIDE_TABLE, NARROW)


def query(folder: Path, sql: str, /, *, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Answer one SQL query over the tables of a folder.

    They are runs, steps, anatomies, comparisons, weight_paths, attention, energy, control_loops and cycles.

    Args:
        folder: Folder with records.
        sql: The query, in DuckDB's SQL.
        json: Print a JSON list of objects instead.
    """
    names, rows = _answer(folder, sql)
    if json:
        print_json([dict(zip(names, map(_plain, row), strict=True)) for row in rows])
        return
    print_table(f"{len(rows)} rows", names, [[str(value) for value in row] for row in rows])


def _answer(folder: Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    from memfloor.report.sql import run_query, run_query_of_file
    from memfloor.report.sql_cache import kept_tables

    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder with records")
    kept = kept_tables(folder, lambda: _tables(folder))
    if kept is None:
        tables, unreadable = _tables(folder)
        _name_unreadable(unreadable)
        return run_query(tables, sql)
    _name_unreadable(kept.unreadable)
    return run_query_of_file(kept.path, sql)


def _tables(folder: Path) -> "tuple[Tables, list[UnreadableFile]]":
    from memfloor.report.afterwards import compared_in
    from memfloor.report.sql import tables_of
    from memfloor.report.weight_ladder import ladders_in

    found = Store(folder).contents()
    others = (
        found.anatomies,
        compared_in(found),
        ladders_in(found),
        found.of("attention").runs,
        found.energy_runs,
        found.control_loops,
    )
    return tables_of(found.runs, *others), list(found.unreadable)


def read_store(folder: Path) -> Records:
    """Return the runs, failures and skips of a folder; see `read_contents`."""
    return read_contents(folder).runs


def read_contents(folder: Path) -> Contents:
    """Return what lies in a folder, and name on standard error every file that is not a valid record."""
    found = Store(folder).contents()
    _name_unreadable(found.unreadable)
    return found


def _name_unreadable(files: Sequence[UnreadableFile]) -> None:
    for file in files:
        print(f"memfloor: skipped {file.path}: {file.reason}", file=sys.stderr)


def _cells(record: Record) -> list[Cell]:
    return [record.candidate, record.baseline] if isinstance(record, Comparison) else [record.cell]


def _is_wanted(cell: Cell, model: str | None, runtime: str | None, context: int | None) -> bool:
    return (
        model in (None, cell.spec.name)
        and runtime in (None, cell.runtime)
        and context in (None, cell.workload.context_len)
    )


def _row(record: Record) -> list[str]:
    cell = _cells(record)[0]
    return [
        record.taken_at[:19].replace("T", " "),
        record.kind,
        cell.spec.name,
        " over ".join(map(runtime_label, _cells(record))),
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
            return f"{cycles}, {record.environment.device.name}"


def _plain(value: Any) -> Any:
    # JSON has no NaN and no infinity.
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
