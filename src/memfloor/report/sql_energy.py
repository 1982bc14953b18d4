"""The table that SQL sees of energy: its columns, and a row of each run."""

from memfloor.record import EnergyRun, MeasuredEnergy
from memfloor.report.sql_tables import OF_CELL, Columns, Row, cell_columns

ENERGY: Columns = {
    **OF_CELL,
    "sensor": "VARCHAR",
    "sensor_period_seconds": "DOUBLE",
    "window_seconds": "DOUBLE",
    "tokens": "BIGINT",
    "joules": "DOUBLE",
    "watts": "DOUBLE",
    "idle_watts": "DOUBLE",
    "joules_per_token": "DOUBLE",
    "joules_per_token_above_idle": "DOUBLE",
    "least_depth": "BIGINT",
    "greatest_depth": "BIGINT",
    "foreign_load": "DOUBLE",
    "git_commit": "VARCHAR",
    "reason": "VARCHAR",
}


def energy_row(run: EnergyRun) -> Row:
    """Return the row of an energy run, or of what there is in place of one."""
    row = cell_columns(run) | {"device": run.device.name if run.device else None, "reason": run.problem}
    return row | _measured(run.measured, run.cell.workload.batch) if run.measured else row


def _measured(taken: MeasuredEnergy, batch: int) -> Row:
    tokens, seconds = taken.steps * batch, taken.decoding.seconds
    least, greatest = taken.depths
    return {
        "device": taken.environment.device.name,
        "sensor": taken.sensor.name,
        "sensor_period_seconds": taken.sensor.period_seconds,
        "window_seconds": seconds,
        "tokens": tokens,
        "joules": taken.joules,
        "watts": taken.watts,
        "idle_watts": taken.idle_watts,
        "joules_per_token": taken.joules / tokens,
        "joules_per_token_above_idle": (taken.joules - taken.idle_watts * seconds) / tokens,
        "least_depth": least,
        "greatest_depth": greatest,
        "foreign_load": taken.environment.foreign_load,
        "git_commit": taken.environment.git_commit,
    }
