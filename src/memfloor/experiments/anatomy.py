"""Where does a step's time go? Timed steps in one process, traced ones in another, and a twin without work."""

import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memfloor.errors import UsageError
from memfloor.experiments.ask import TIMED_CHILD, TRACED_CHILD, LostChildError, ask, phases
from memfloor.experiments.blocks import PATIENCE
from memfloor.experiments.job import Job, Measured
from memfloor.experiments.tracing import TraceJob
from memfloor.record import Anatomy, Cell, Failure, Protocol, StepTrace, Store
from memfloor.runtimes import find_runtime
from memfloor.spec import weight_format

# Shapes whose kernels take no time to speak of; every kernel of the engine takes them too.
TWIN_SHAPE = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 512, "head_dim": 16}
TWIN_CONTEXT = 16
# With an even number of heads a whole number of groups of 128 weights, which quantised formats come in.
TWIN_QUANTIZED_HEAD_DIM = 64
# On a CPU only those count that met the same bandwidth as timed steps.
TRACED_STEPS = {"cpu": 15, "cuda": 5}


@dataclass(frozen=True, slots=True)
class AnatomyPlan:
    """Say what is taken apart how often.

    Attributes:
        cell: What is decoded and how.
        runs: Anatomies, each of fresh processes.
        protocol: How timed steps are taken.
        traced_steps: Steps of each trace.
        time_limit_seconds: Time after which a process is ended.
        seed: Of weights and cache.
        session_id: Of the session that they belong to; each is one of its own unless given.
    """

    cell: Cell
    runs: int
    protocol: Protocol
    traced_steps: int
    time_limit_seconds: float = 900.0
    seed: int = 0
    session_id: str | None = None


def twin_cell(cell: Cell) -> Cell | None:
    """Return the cell of the same operators on tensors too small to matter; None where nothing launches them singly."""
    if not find_runtime(cell.runtime).launches_one_by_one(cell):
        return None
    quantized = weight_format(cell.workload.weights).is_quantized
    shape = TWIN_SHAPE | ({"head_dim": TWIN_QUANTIZED_HEAD_DIM} if quantized else {})
    spec = cell.spec.model_copy(update={**shape, "name": f"{cell.spec.name}-twin"})
    workload = cell.workload.model_copy(update={"context_len": TWIN_CONTEXT})
    return cell.model_copy(update={"spec": spec, "workload": workload, "weights_from": None, "prefill": False})


def take_anatomies(
    plan: AnatomyPlan, store: Store, on_phase: Callable[[str], None], done: Collection[int] = ()
) -> Iterator[Anatomy]:
    """Take every missing anatomy of a plan, yield those that were taken, and go on whatever happens to a process.

    Each one's record and trace are on disk when it is yielded. One whose process is lost is a `Failure` on record;
    after one that ran out of memory, or some in a row, the rest is left alone.

    Args:
        plan: What is wanted.
        store: Where records and traces go; must be open for writing.
        on_phase: Told what each process does, and what became of those that were lost.
        done: Numbers of the anatomies that are on record and not to be taken again.

    Raises:
        UsageError: The cell cannot be run or taken apart, its trace does not show what was run, or all were lost.
    """
    _refuse_many_steps(plan.cell)
    taken = in_a_row = 0
    last_words = ""
    for block in sorted(set(range(plan.runs)) - set(done)):
        on_phase(f"anatomy {block + 1} of {plan.runs}")
        record = _take_one(plan, block, store, on_phase)
        store.add(record)
        if isinstance(record, Anatomy):
            taken, in_a_row = taken + 1, 0
            yield record
            continue
        last_words, in_a_row = record.last_words, in_a_row + 1
        on_phase(f"anatomy {block + 1} was lost: {last_words}")
        # Memory does not come back by asking again.
        if record.cause == "out_of_memory" or in_a_row == PATIENCE:
            break
    if last_words and not taken:
        raise UsageError(last_words)


def _refuse_many_steps(cell: Cell) -> None:
    steps = find_runtime(cell.runtime).steps_per_call(cell)
    if steps > 1:
        raise UsageError(
            f"{cell.runtime_text} launches {steps} steps in one call, which no trace can cut apart; "
            "an anatomy needs one step in a call"
        )


def _take_one(plan: AnatomyPlan, block: int, store: Store, on_phase: Callable[[str], None]) -> Anatomy | Failure:
    identity: dict[str, Any] = {
        "record_id": uuid.uuid4().hex,
        "session_id": plan.session_id or uuid.uuid4().hex,
        "taken_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "block": block,
        "seed": plan.seed + block,
        "cell": plan.cell,
    }
    try:
        return _take_apart(plan, identity, store, on_phase)
    except LostChildError as lost:
        return Failure(**identity, cause=lost.cause, last_words=str(lost), device=lost.device)


def _take_apart(
    plan: AnatomyPlan, identity: Mapping[str, Any], store: Store, on_phase: Callable[[str], None]
) -> Anatomy:
    cell, twin, record_id, seed = plan.cell, twin_cell(plan.cell), identity["record_id"], identity["seed"]
    job = Job(cell=cell, protocol=plan.protocol, seed=seed, twin=twin)
    limit = plan.time_limit_seconds
    measured = Measured.model_validate(ask(TIMED_CHILD, job, limit, phases(on_phase)).need("measured"))

    def trace(of: Cell, what: str) -> StepTrace:
        return trace_cell(of, seed, plan.traced_steps, store.trace_path(record_id, what), limit, on_phase)

    return Anatomy(
        **identity,
        protocol=plan.protocol,
        steps_per_call=measured.steps_per_call,
        steps=measured.timings.steps,
        ceilings=measured.timings.ceilings,
        environment=measured.environment,
        path=measured.path,
        twin=measured.twin,
        trace=trace(cell, "step"),
        # On a GPU the host's own time of issue says more; there the twin is a check.
        twin_trace=trace(twin, "twin") if twin and cell.device == "cpu" else None,
    )


def trace_cell(
    cell: Cell,
    seed: int,
    steps: int,
    path: Path,
    time_limit_seconds: float,
    on_phase: Callable[[str], None] = lambda phase: None,
) -> StepTrace:
    """Return the trace of a cell's steps, taken in a process of its own.

    Args:
        cell: What is decoded and how.
        seed: Of weights and cache.
        steps: Steps to trace.
        path: Where the trace's file goes.
        time_limit_seconds: Time after which the process is ended.
        on_phase: Told what the process does.

    Raises:
        UsageError: The cell cannot run here or be traced, its trace does not show what was run, or the process is lost.
    """
    job = TraceJob(cell=cell, seed=seed, steps=steps, path=path)
    return StepTrace.model_validate(ask(TRACED_CHILD, job, time_limit_seconds, phases(on_phase)).need("traced"))
