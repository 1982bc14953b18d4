"""The tables that SQL sees of a folder: their columns, and a row of each from its records."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from memfloor.floor import CONVENTIONS
from memfloor.record import Anatomy, Cell, ControlLoop, Digest, EnergyRun, Failure, Run, Skip, Timed, digest_of
from memfloor.report.breakdown import EXCESS, IDLE, entries_of
from memfloor.report.by_cell import cell_json
from memfloor.report.compared import Compared
from memfloor.report.matching import match_steps
from memfloor.report.summary import floor_bytes

Row = dict[str, Any]
Columns = Mapping[str, str]
LEDGER_LINES = ("floor", *(name for _, name, _ in EXCESS), IDLE[0], "unexplained")


def line_column(line: str) -> str:
    """Return the column of a line of a ledger."""
    return f"{line.replace(' ', '_')}_seconds"


OF_CELL = {
    "record_id": "VARCHAR",
    "session_id": "VARCHAR",
    # In UTC; a type with a zone would need another package to be read in Python.
    "taken_at": "TIMESTAMP",
    "kind": "VARCHAR",
    "model": "VARCHAR",
    "runtime": "VARCHAR",
    "options": "VARCHAR",
    "arm": "VARCHAR",
    "context_len": "BIGINT",
    "batch": "BIGINT",
    "weights": "VARCHAR",
    "kv": "VARCHAR",
    "block": "BIGINT",
    "device": "VARCHAR",
}
# What a record says of itself, and a digest of its figures.
NAMED = ("record_id", "session_id", "taken_at", "kind", "block")
DIGESTED = (
    *NAMED,
    "device",
    "reason",
    "steps_per_call",
    "p50_seconds",
    "ceiling_bytes_per_second",
    "foreign_load",
    "git_commit",
)
TIMED = {
    "steps_per_call": "BIGINT",
    "p50_seconds": "DOUBLE",
    "ceiling_bytes_per_second": "DOUBLE",
    **{f"{name}_bytes": "BIGINT" for name in CONVENTIONS},
    "fraction_of_ceiling": "DOUBLE",
    "foreign_load": "DOUBLE",
    "git_commit": "VARCHAR",
}
RUNS: Columns = {**OF_CELL, **TIMED, "reason": "VARCHAR"}
STEPS: Columns = {
    "record_id": "VARCHAR",
    "step": "BIGINT",
    "phase": "VARCHAR",
    "host_seconds": "DOUBLE",
    "device_seconds": "DOUBLE",
}
ANATOMIES: Columns = {
    **OF_CELL,
    **TIMED,
    "traced_steps": "BIGINT",
    "kernels": "BIGINT",
    # Of the steps that met one bandwidth, whose median this is.
    "step_seconds": "DOUBLE",
    **{line_column(line): "DOUBLE" for line in LEDGER_LINES},
    "reason": "VARCHAR",
}
ATTENTION: Columns = {
    **OF_CELL,
    "layers": "BIGINT",
    # Of a layer, the mean over layers.
    "p50_seconds": "DOUBLE",
    "kv_bytes": "DOUBLE",
    "ceiling_bytes_per_second": "DOUBLE",
    "fraction_of_ceiling": "DOUBLE",
    "error_relative_norm": "DOUBLE",
    "error_max_abs": "DOUBLE",
    "plan_seconds": "DOUBLE",
    "reason": "VARCHAR",
}
COMPARISONS: Columns = {
    "record_id": "VARCHAR",
    "session_id": "VARCHAR",
    "question": "VARCHAR",
    "model": "VARCHAR",
    "baseline": "VARCHAR",
    "candidate": "VARCHAR",
    "context_len": "BIGINT",
    "batch": "BIGINT",
    "device": "VARCHAR",
    "planned_blocks": "BIGINT",
    "blocks": "BIGINT",
    "ratio": "DOUBLE",
    "ratio_low": "DOUBLE",
    "ratio_high": "DOUBLE",
    "ratio_at_equal_bandwidth": "DOUBLE",
    "margin": "DOUBLE",
    "verdict": "VARCHAR",
    "null_claim": "VARCHAR",
    "isolation": "VARCHAR",
    "confounders": "VARCHAR",
    "outputs": "VARCHAR",
}


def run_row(record: Run | Failure | Skip) -> Row:
    """Return the row of `runs` for a run, or for what there is in place of one."""
    return _digest_row(digest_of(record))


def digest_row(digest: Digest) -> Row | None:
    """Return the same by its digest; None for a run of another part of a step."""
    return _digest_row(digest) if _cell(digest.cell).part == "step" else None


def _digest_row(digest: Digest) -> Row:
    row = _names(digest.cell) | {name: getattr(digest, name) for name in DIGESTED}
    if digest.fraction_of_ceiling is None:
        return row
    traffic = _traffic(digest.cell)
    return row | traffic | {"fraction_of_ceiling": traffic["streamed_bytes"] * digest.fraction_of_ceiling}


# Thousands of runs are of a few hundred cells.
@lru_cache(maxsize=8192)
def _cell(text: str) -> Cell:
    return Cell.model_validate_json(text)


@lru_cache(maxsize=8192)
def _names(text: str) -> Row:
    return _name_cell(_cell(text))


@lru_cache(maxsize=8192)
def _traffic(text: str) -> Row:
    return _bytes(_cell(text))


def step_rows(record: Run | Failure | Skip) -> Iterator[Row]:
    """Give the rows of `steps` of a record, in order; none but a run has any."""
    for index, step in enumerate(record.steps if isinstance(record, Run) else ()):
        times = {"host_seconds": step.host_seconds, "device_seconds": step.device_seconds}
        yield {"record_id": record.record_id, "step": index, "phase": step.phase, **times}


def anatomy_row(anatomy: Anatomy) -> Row:
    """Return the row of `anatomies`: its own ledger, or as `reason` why its steps cannot be set against each other."""
    match = match_steps(anatomy)
    row = cell_columns(anatomy) | _timed(anatomy)
    row |= {"traced_steps": len(anatomy.trace.step_seconds), "kernels": len(anatomy.trace.kernels)}
    if match.refusal is not None:
        return row | {"reason": match.refusal}
    lines = {line_column(line): seconds for line, seconds in entries_of(match.anatomy).items()}
    return row | {"step_seconds": match.anatomy.p50_seconds, **lines}


def attention_row(record: Run | Failure | Skip) -> Row:
    """Return the row of `attention` for a run of a backend, or for what there is in place of one."""
    if not isinstance(record, Run):
        return run_row(record)
    layers, timed, path = record.cell.spec.num_hidden_layers, _timed(record), record.path
    row = cell_columns(record) | {name: timed[name] for name in timed if name in ATTENTION} | {"layers": layers}
    row |= {"p50_seconds": record.p50_seconds / layers, "kv_bytes": timed["streamed_bytes"] / layers}
    if path.output_error:
        row |= {f"error_{name}": value for name, value in path.output_error.model_dump().items()}
    return row | {"plan_seconds": path.plan_seconds}


def comparison_row(compared: Compared) -> Row:
    """Return the row of `comparisons`; what was paired afterwards has no record and no question."""
    said, ratio, equal = compared.comparison, compared.ratio, compared.equal_bandwidth
    row: Row = {"confounders": "; ".join(compared.confounders), "margin": compared.margin, "null_claim": compared.null}
    row |= {name: getattr(compared, name) for name in ("verdict", "isolation", "outputs")}
    row |= {"baseline": compared.baseline.runtime_text, "candidate": compared.candidate.runtime_text}
    names = cell_json(compared.baseline)
    row |= {name: names[name] for name in ("model", "context_len", "batch")}
    if said:
        row |= {name: getattr(said, name) for name in ("record_id", "session_id", "question")}
        row |= {"planned_blocks": said.planned_runs}
    if compared.baseline_runs:
        row |= {"device": compared.baseline_runs[0].environment.device.name}
    if ratio and equal:
        low, high = ratio.ci95 or (None, None)
        row |= {"blocks": ratio.blocks, "ratio": ratio.value, "ratio_low": low, "ratio_high": high}
        row |= {"ratio_at_equal_bandwidth": equal.ratio.value}
    return row


def cell_columns(record: Anatomy | Run | EnergyRun | ControlLoop) -> Row:
    """Return what a row of any record of a cell begins with."""
    return _name_cell(record.cell) | {name: getattr(record, name) for name in NAMED}


def _name_cell(cell: Cell) -> Row:
    options = ",".join(f"{key}={value}" for key, value in sorted(cell.options.items()))
    return cell_json(cell) | {"options": options, "arm": cell.arm, "kv": cell.workload.kv}


def _bytes(cell: Cell) -> Row:
    return {f"{name}_bytes": total for name, total in floor_bytes(cell).items()}


def _timed(taken: Timed) -> Row:
    traffic = _bytes(taken.cell)
    return {
        "device": taken.environment.device.name,
        "steps_per_call": taken.steps_per_call,
        "p50_seconds": taken.p50_seconds,
        "ceiling_bytes_per_second": taken.ceiling_bytes_per_second,
        **traffic,
        "fraction_of_ceiling": taken.fraction_of_ceiling(traffic["streamed_bytes"]),
        "foreign_load": taken.environment.foreign_load,
        "git_commit": taken.environment.git_commit,
    }
