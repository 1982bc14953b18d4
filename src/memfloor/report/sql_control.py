"""The tables that SQL sees of control loops: a row for each loop, and one for each of its cycles."""

from collections.abc import Iterator

from memfloor.record import ControlLoop
from memfloor.report.coincidence import WORDS
from memfloor.report.control import LoopSummary, response_seconds
from memfloor.report.sql_tables import OF_CELL, Columns, Row, cell_columns

CONTROL_LOOPS: Columns = {
    **OF_CELL,
    "period_seconds": "DOUBLE",
    "steps": "BIGINT",
    "paced": "BOOLEAN",
    "no_prefill": "VARCHAR",
    "interrupted": "VARCHAR",
    "cycles": "BIGINT",
    "p50_seconds": "DOUBLE",
    "p99_seconds": "DOUBLE",
    "p999_seconds": "DOUBLE",
    "periods": "BIGINT",
    "missed": "BIGINT",
    "missed_per_hour": "DOUBLE",
    "missed_per_hour_low": "DOUBLE",
    "missed_per_hour_high": "DOUBLE",
    "floor_seconds": "DOUBLE",
}
TIMES = ("late_seconds", "prefill_seconds", "decode_seconds", "device_decode_seconds", "busy_seconds")
CYCLES: Columns = {
    "record_id": "VARCHAR",
    "cycle": "BIGINT",
    "tick": "BIGINT",
    "warmup": "BOOLEAN",
    **dict.fromkeys(TIMES, "DOUBLE"),
    # From when it was due; of the cycles that count.
    "response_seconds": "DOUBLE",
    **dict.fromkeys(WORDS, "DOUBLE"),
}


def loop_row(loop: ControlLoop) -> Row:
    """Return the row of `control_loops` of a loop by itself."""
    summary = LoopSummary((loop,))
    misses, (middle, tail, far) = summary.misses, summary.quantiles
    low, high = misses.ci95_per_hour
    said = ("period_seconds", "steps", "paced", "no_prefill", "interrupted")
    return cell_columns(loop) | {
        **{name: getattr(loop, name) for name in said},
        "device": loop.environment.device.name,
        "cycles": len(summary.responses[0]),
        "p50_seconds": middle.value,
        "p99_seconds": tail.value,
        "p999_seconds": far.value,
        "periods": misses.trials,
        "missed": misses.count,
        "missed_per_hour": misses.per_hour,
        "missed_per_hour_low": low,
        "missed_per_hour_high": high,
        "floor_seconds": summary.floor.seconds,
    }


def cycle_rows(loop: ControlLoop) -> Iterator[Row]:
    """Give the rows of `cycles` of a loop, in order, warm-up included."""
    cycles, warm = loop.cycles, loop.warmup_cycles
    columns = {name: getattr(cycles, name) for name in TIMES} | cycles.facts
    responses = [None] * warm + response_seconds(loop)
    for place, (tick, response) in enumerate(zip(cycles.ticks, responses, strict=True)):
        row = {"record_id": loop.record_id, "cycle": place, "tick": tick, "warmup": place < warm}
        row |= {name: values[place] for name, values in columns.items() if values}
        yield row | {"response_seconds": response}
