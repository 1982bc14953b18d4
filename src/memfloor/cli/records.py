"""`memfloor runs` and `memfloor query`: look into a folder of records."""

import atexit
import gc
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from memfloor.cli.output import print_json, print_table, print_wide_table
from memfloor.errors import UsageError
from memfloor.record import Cell, Contents, Failure, Run, Skip, Store, UnreadableFile
from memfloor.report.listing import LISTING_COLUMNS, cells_of, listing_row

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
        if kind in (None, record.kind) and any(_is_wanted(cell, model, runtime, context) for cell in cells_of(record))
    ]
    if json:
        print_json([record.model_dump(mode="json") for record in records])
        return
    print_wide_table(
        f"{len(records)} records in {folder}", LISTING_COLUMNS, map(listing_row, records), WIDE_TABLE, NARROW
    )


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
    from memfloor.report.folder_tables import tables_in
    from memfloor.report.sql import run_query, run_query_of_files, tables_named
    from memfloor.report.sql_cache import kept_tables

    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder with records")
    names = tables_named(sql)
    kept = kept_tables(folder, names, lambda missing: tables_in(folder, missing))
    if kept is None:
        tables, unreadable = tables_in(folder, names)
        _name_unreadable(unreadable)
        return run_query(tables, sql)
    _name_unreadable(kept.unreadable)
    return run_query_of_files(kept.paths, sql)


def read_store(folder: Path) -> Records:
    """Return the runs, failures and skips of a folder; see `read_contents`."""
    return read_contents(folder).runs


def read_contents(folder: Path) -> Contents:
    """Return what lies in a folder, and name on standard error every file that is not a valid record."""
    found = read_quietly(folder)
    _name_unreadable(found.unreadable)
    return found


def read_quietly(folder: Path) -> Contents:
    """Return what lies in a folder, for a command that says by itself what was left out."""
    found = Store(folder).contents()
    # It stays to the end of the command: the collector need not go through millions of its parts again and again.
    gc.freeze()
    # What libraries leave at the end is theirs to collect.
    atexit.register(gc.unfreeze)
    return found


def _name_unreadable(files: Sequence[UnreadableFile]) -> None:
    for file in files:
        print(f"memfloor: skipped {file.path}: {file.reason}", file=sys.stderr)


def _is_wanted(cell: Cell, model: str | None, runtime: str | None, context: int | None) -> bool:
    return (
        model in (None, cell.spec.name)
        and runtime in (None, cell.runtime)
        and context in (None, cell.workload.context_len)
    )


def _plain(value: Any) -> Any:
    # JSON has no NaN and no infinity.
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
