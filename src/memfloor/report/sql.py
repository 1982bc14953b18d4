"""SQL over the valid records of a store, through an in-memory DuckDB that can touch nothing else."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

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
# What a query about the tables themselves has in it.
ABOUT_TABLES = re.compile("duckdb_|information_schema|pragma|pg_|sqlite_", re.IGNORECASE)


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


def tables_named(sql: str) -> list[str]:
    """Return the tables that a query reads, or all where that cannot be told."""
    with duckdb.connect(":memory:") as connection:
        _lock(connection)
        for name, columns in COLUMNS.items():
            _declare(connection, name, columns)
        try:
            named = {name.lower() for name in connection.get_table_names(sql)}
        except duckdb.Error:
            named = set()
    is_told = named and named <= COLUMNS.keys() and not ABOUT_TABLES.search(sql)
    return [name for name in COLUMNS if name in named or not is_told]


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


def run_query_of_files(paths: Mapping[str, Path], sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Answer one SELECT over tables that files of DuckDB keep, as `run_query` does; the files stay as they are.

    Args:
        paths: The file of each table.
        sql: The query.

    Raises:
        UsageError: DuckDB refuses the query, with its reason.
    """
    with duckdb.connect(":memory:") as connection:
        for name, path in paths.items():
            quoted = str(path).replace("'", "''")
            connection.execute(f"ATTACH '{quoted}' AS kept_{name} (READ_ONLY)")
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM kept_{name}.{name}")
        return _answer(connection, sql)


def fill(connection: duckdb.DuckDBPyConnection, tables: Tables) -> None:
    """Make tables in a database."""
    for name, (columns, rows) in tables.items():
        _load(connection, name, columns, rows)


def _answer(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    _lock(connection)
    try:
        cursor = connection.execute(sql)
        names = [column[0] for column in cursor.description or []]
        return names, cursor.fetchall()
    except duckdb.Error as error:
        known = "; ".join(f"{name}({', '.join(columns)})" for name, columns in COLUMNS.items())
        raise UsageError(f"{str(error).splitlines()[0]}; tables: {known}") from error


def _lock(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _declare(connection: duckdb.DuckDBPyConnection, table: str, columns: Columns) -> None:
    declared = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    connection.execute(f"CREATE TABLE {table} ({declared})")


def _load(connection: duckdb.DuckDBPyConnection, table: str, columns: Columns, rows: Iterable[Row]) -> None:
    _declare(connection, table, columns)
    given = list(rows)
    if not given:
        return
    # One array per column: an INSERT per row would take seconds for ten thousand records.
    values = {name: np.array([row.get(name) for row in given], dtype=object) for name in columns}
    # The type of an array is that of all its values, not of a sample.
    connection.execute(f"SET pandas_analyze_sample = {len(given) + 1}")
    connection.register("given", values)
    cast = ", ".join(f"{name}::{kind}" for name, kind in columns.items())
    connection.execute(f"INSERT INTO {table} SELECT {cast} FROM given")
    connection.unregister("given")
