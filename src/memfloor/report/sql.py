"""SQL over the valid records of a store, through an in-memory DuckDB that can touch nothing else."""

from collections.abc import Iterable, Sequence
from typing import Any

import duckdb

from memfloor.errors import UsageError
from memfloor.floor import CONVENTIONS, step_traffic
from memfloor.record import Failure, Run, Skip

RUNS_COLUMNS = {
    "record_id": "VARCHAR",
    "session_id": "VARCHAR",
    # In UTC; a type with a zone would need another package to be read in Python.
    "taken_at": "TIMESTAMP",
    "kind": "VARCHAR",
    "model": "VARCHAR",
    "runtime": "VARCHAR",
    "options": "VARCHAR",
    "context_len": "BIGINT",
    "batch": "BIGINT",
    "weights": "VARCHAR",
    "kv": "VARCHAR",
    "block": "BIGINT",
    "device": "VARCHAR",
    "steps_per_call": "BIGINT",
    "p50_seconds": "DOUBLE",
    "ceiling_bytes_per_second": "DOUBLE",
    **{f"{name}_bytes": "BIGINT" for name in CONVENTIONS},
    "fraction_of_ceiling": "DOUBLE",
    "foreign_load": "DOUBLE",
    "git_commit": "VARCHAR",
    "reason": "VARCHAR",
}
STEPS_COLUMNS = {
    "record_id": "VARCHAR",
    "step": "BIGINT",
    "phase": "VARCHAR",
    "host_seconds": "DOUBLE",
    "device_seconds": "DOUBLE",
}


def run_query(records: Sequence[Run | Failure | Skip], sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Answer one SELECT over two tables, `runs` (a row per record) and `steps` (a row per step).

    Args:
        records: Valid records.
        sql: The query; it can read no file and change nothing outside its own memory.

    Raises:
        UsageError: DuckDB refuses the query, with its reason.
    """
    with duckdb.connect(":memory:") as connection:
        _load(connection, "runs", RUNS_COLUMNS, map(_run_row, records))
        _load(connection, "steps", STEPS_COLUMNS, (row for record in records for row in _step_rows(record)))
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            cursor = connection.execute(sql)
            names = [column[0] for column in cursor.description or []]
            return names, cursor.fetchall()
        except duckdb.Error as error:
            tables = "; ".join(
                f"{name}({', '.join(columns)})" for name, columns in (("runs", RUNS_COLUMNS), ("steps", STEPS_COLUMNS))
            )
            raise UsageError(f"{str(error).splitlines()[0]}; tables: {tables}") from error


def _load(
    connection: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str], rows: Iterable[dict[str, Any]]
) -> None:
    declared = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    connection.execute(f"CREATE TABLE {table} ({declared})")
    by_column = list(rows)
    if by_column:
        values = [[row.get(name) for row in by_column] for name in columns]
        # One list per column: an INSERT per row would take seconds for ten thousand records.
        unnested = ", ".join(f"unnest(?::{kind}[])" for kind in columns.values())
        connection.execute(f"INSERT INTO {table} SELECT {unnested}", values)


def _run_row(record: Run | Failure | Skip) -> dict[str, Any]:
    cell = record.cell
    row: dict[str, Any] = {
        "record_id": record.record_id,
        "session_id": record.session_id,
        "taken_at": record.taken_at,
        "kind": record.kind,
        "model": cell.spec.name,
        "runtime": cell.runtime,
        "options": ",".join(f"{key}={value}" for key, value in sorted(cell.options.items())),
        "context_len": cell.workload.context_len,
        "batch": cell.workload.batch,
        "weights": cell.workload.weights,
        "kv": cell.workload.kv,
        "block": record.block,
    }
    return row | (_measured_columns(record) if isinstance(record, Run) else _reason_columns(record))


def _measured_columns(run: Run) -> dict[str, Any]:
    traffic = {name: step_traffic(run.cell.spec, run.cell.workload, name).total_bytes for name in CONVENTIONS}
    return {
        "device": run.environment.device.name,
        "steps_per_call": run.steps_per_call,
        "p50_seconds": run.p50_seconds,
        "ceiling_bytes_per_second": run.ceiling_bytes_per_second,
        **{f"{name}_bytes": total for name, total in traffic.items()},
        "fraction_of_ceiling": run.fraction_of_ceiling(traffic["streamed"]),
        "foreign_load": run.environment.foreign_load,
        "git_commit": run.environment.git_commit,
    }


def _reason_columns(record: Failure | Skip) -> dict[str, Any]:
    reason = record.reason if isinstance(record, Skip) else f"{record.cause}: {record.last_words}"
    return {"reason": reason, "device": record.device.name if record.device else None}


def _step_rows(record: Run | Failure | Skip) -> list[dict[str, Any]]:
    if not isinstance(record, Run):
        return []
    return [
        {
            "record_id": record.record_id,
            "step": index,
            "phase": step.phase,
            "host_seconds": step.host_seconds,
            "device_seconds": step.device_seconds,
        }
        for index, step in enumerate(record.steps)
    ]
