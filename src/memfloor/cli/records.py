"""`memfloor runs` and `memfloor query`: look into a folder of records."""

import math
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from memfloor.cli.output import print_json, print_table, print_wide_table
from memfloor.record import Failure, Run, Skip, Store
from memfloor.units import format_bandwidth, format_seconds

Records = list[Run | Failure | Skip]
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
    kind: Literal["run", "failure", "skip"] | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """List the records of a folder, oldest first.

    Args:
        folder: Folder with records.
        model: Only this model.
        runtime: Only this runtime.
        context: Only this context.
        kind: Only run, failure or skip.
        json: Print a JSON list of the whole records instead.
    """
    records = [
        record
        for record in read_store(folder)
        if model in (None, record.cell.spec.name)
        and runtime in (None, record.cell.runtime)
        and context in (None, record.cell.workload.context_len)
        and kind in (None, record.kind)
    ]
    if json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    print_wide_table(f"{len(records)} records in {folder}", RUNS_COLUMNS, map(_row, records), WIDE_TABLE, NARROW)


def query(folder: Path, sql: str, /, *, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Answer one SQL query over the tables runs and steps of a folder.

    Args:
        folder: Folder with records.
        sql: The query, in DuckDB's SQL.
        json: Print a JSON list of objects instead.
    """
    from memfloor.report.sql import run_query

    names, rows = run_query(read_store(folder), sql)
    if json:
        print_json([dict(zip(names, map(_plain, row), strict=True)) for row in rows])
        return
    print_table(f"{len(rows)} rows", names, [[str(value) for value in row] for row in rows])


def read_store(folder: Path) -> Records:
    """Return the records of a folder, and name on standard error every file that is not a valid one."""
    records, unreadable = Store(folder).read()
    for file in unreadable:
        print(f"memfloor: skipped {file.path}: {file.reason}", file=sys.stderr)
    return records


def _row(record: Run | Failure | Skip) -> list[str]:
    cell = record.cell
    head = [
        record.taken_at[:19].replace("T", " "),
        record.kind,
        cell.spec.name,
        cell.runtime_text,
        str(cell.workload.context_len),
        str(record.block),
    ]
    match record:
        case Run():
            ceiling = format_bandwidth(record.ceiling_bytes_per_second)
            return [*head, format_seconds(record.p50_seconds), ceiling, record.environment.device.name]
        case Failure():
            return [*head, "-", "-", f"{record.cause}: {record.last_words}"]
        case Skip():
            return [*head, "-", "-", record.reason]


def _plain(value: Any) -> Any:
    # JSON has no NaN and no infinity.
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
