"""SQL over the valid records of a store, through an in-memory DuckDB that can touch nothing else."""

from collections.abc import Iterable, Sequence
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


def run_query(
    records: Sequence[Run | Failure | Skip],
    sql: str,
    anatomies: Sequence[Anatomy] = (),
    compared: Sequence[Compared] = (),
    ladders: Sequence[WeightLadder] = (),
    attention: Sequence[Run | Failure | Skip] = (),
    energy_runs: Sequence[EnergyRun] = (),
    loops: Sequence[ControlLoop] = (),
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Answer one SELECT over the tables of a folder's records: `runs`, `steps`, `anatomies` and those that follow.

    Args:
        records: Valid records.
        sql: The query; it can read no file and change nothing outside its own memory.
        anatomies: A row each.
        compared: A row each.
        ladders: A row for each of their paths.
        attention: Records of attention backends, a row each; they are no steps.
        energy_runs: A row each.
        loops: A row each of `control_loops`, and one of `cycles` for each of their cycles.

    Raises:
        UsageError: DuckDB refuses the query, with its reason.
    """
    tables: dict[str, tuple[Columns, Iterable[Row]]] = {
        "runs": (RUNS, map(run_row, records)),
        "steps": (STEPS, (row for record in records for row in step_rows(record))),
        "anatomies": (ANATOMIES, map(anatomy_row, anatomies)),
        "comparisons": (COMPARISONS, map(comparison_row, compared)),
        "weight_paths": (WEIGHT_PATHS, weight_path_rows(ladders)),
        "attention": (ATTENTION, map(attention_row, attention)),
        "energy": (ENERGY, map(energy_row, energy_runs)),
        "control_loops": (CONTROL_LOOPS, map(loop_row, loops)),
        "cycles": (CYCLES, (row for loop in loops for row in cycle_rows(loop))),
    }
    with duckdb.connect(":memory:") as connection:
        for name, (columns, rows) in tables.items():
            _load(connection, name, columns, rows)
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            cursor = connection.execute(sql)
            names = [column[0] for column in cursor.description or []]
            return names, cursor.fetchall()
        except duckdb.Error as error:
            known = "; ".join(f"{name}({', '.join(columns)})" for name, (columns, _) in tables.items())
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
