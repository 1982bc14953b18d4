"""SQL over the valid records of a store, through an in-memory DuckDB that can touch nothing else."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb

from memfloor.errors import UsageError
from memfloor.record import Anatomy, ControlLoop, EnergyRun, Failure, Run, Skip
from memfloor.report.compared import Compared
from memfloor.report.sql_control import CONTROL_LOOPS, CYCLES, cycle_rows, loop_row
from memfloor.report.sql_energy import ENERGY, energy_row
from memfloor.report.sql_tables import (
    ANATOMIES,
    ATTENTION,
    COMPARISONS,
    RUNS,
    STEPS,
    Columns,
    Row,
    anatomy_row,
    attention_row,
    comparison_row,
    run_row,
    step_rows,
)
from memfloor.report.sql_weights import WEIGHT_PATHS, weight_path_rows
from memfloor.report.weight_ladder import WeightLadder

Tables = dict[str, tuple[Columns, Iterable[Row]]]
COLUMNS: dict[str, Columns] = {
    "runs": RUNS,
    "steps": STEPS,
    "anatomies": ANATOMIES,
    "comparisons": COMPARISONS,
    "weight_paths": WEIGHT_PATHS,
    "attention": ATTENTION,
    "energy": ENERGY,
    "control_loops": CONTROL_LOOPS,
    "cycles": CYCLES,
}


def tables_of(
    records: Sequence[Run | Failure | Skip],
    anatomies: Sequence[Anatomy] = (),
    compared: Sequence[Compared] = (),
    ladders: Sequence[WeightLadder] = (),
    attention: Sequence[Run | Failure | Skip] = (),
    energy_runs: Sequence[EnergyRun] = (),
    loops: Sequence[ControlLoop] = (),
) -> Tables:
    """Return the tables of a folder, from `runs` and `steps` to `cycles`.

    Args:
        records: Valid records.
        anatomies: A row each.
        compared: A row each.
        ladders: A row for each of their paths.
        attention: Records of attention backends, a row each; they are no steps.
        energy_runs: A row each.
        loops: A row each of `control_loops`, and one of `cycles` for each of their cycles.
    """
    rows: dict[str, Iterable[Row]] = {
        "runs": map(run_row, records),
        "steps": (row for record in records for row in step_rows(record)),
        "anatomies": map(anatomy_row, anatomies),
        "comparisons": map(comparison_row, compared),
        "weight_paths": weight_path_rows(ladders),
        "attention": map(attention_row, attention),
        "energy": map(energy_row, energy_runs),
        "control_loops": map(loop_row, loops),
        "cycles": (row for loop in loops for row in cycle_rows(loop)),
    }
    return {name: (columns, rows[name]) for name, columns in COLUMNS.items()}


def run_query(tables: Tables, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Answer one SELECT over tables.

    Args:
        tables: Their columns and rows.
        sql: The query; it can read no file and change nothing outside its own memory.

    Raises:
        UsageError: DuckDB refuses the query, with its reason.
    """
    with duckdb.connect(":memory:") as connection:
        fill(connection, tables)
        return _answer(connection, sql)


def run_query_of_file(path: Path, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Answer one SELECT over the tables that a file of DuckDB keeps, as `run_query` does; the file stays as it is.

    Raises:
        UsageError: DuckDB refuses the query, with its reason.
    """
    with duckdb.connect(":memory:") as connection:
        quoted = str(path).replace("'", "''")
        connection.execute(f"ATTACH '{quoted}' AS kept (READ_ONLY)")
        for name in COLUMNS:
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM kept.{name}")
        return _answer(connection, sql)


def fill(connection: duckdb.DuckDBPyConnection, tables: Tables) -> None:
    """Make tables in a database."""
    for name, (columns, rows) in tables.items():
        _load(connection, name, columns, rows)


def _answer(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    try:
        cursor = connection.execute(sql)
        names = [column[0] for column in cursor.description or []]
        return names, cursor.fetchall()
    except duckdb.Error as error:
        known = "; ".join(f"{name}({', '.join(columns)})" for name, columns in COLUMNS.items())
        raise UsageError(f"{str(error).splitlines()[0]}; tables: {known}") from error


def _load(connection: duckdb.DuckDBPyConnection, table: str, columns: Columns, rows: Iterable[Row]) -> None:
    declared = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    connection.execute(f"CREATE TABLE {table} ({declared})")
    by_column = list(rows)
    if by_column:
        values = [[row.get(name) for row in by_column] for name in columns]
        # One list per column: an INSERT per row would take seconds for ten thousand records.
        unnested = ", ".join(f"unnest(?::{kind}[])" for kind in columns.values())
        connection.execute(f"INSERT INTO {table} SELECT {unnested}", values)
