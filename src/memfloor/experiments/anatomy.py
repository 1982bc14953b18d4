"""Where does a step's time go? Timed steps in one process, traced ones in another, and a twin without work."""

import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from memfloor.experiments.ask import TIMED_CHILD, TRACED_CHILD, ask
from memfloor.experiments.job import Job, Measured
from memfloor.experiments.tracing import TraceJob
from memfloor.record import Anatomy, Cell, Protocol, StepTrace, Store
from memfloor.runtimes import find_runtime

# Shapes whose kernels take no time to speak of; every kernel of the engine takes them too.
TWIN_SHAPE = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 512, "head_dim": 16}
TWIN_CONTEXT = 16
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
    """

    cell: Cell
    runs: int
    protocol: Protocol
    traced_steps: int
    time_limit_seconds: float = 900.0
    seed: int = 0


def twin_cell(cell: Cell) -> Cell | None:
    """Return the cell of the same operators on tensors too small to matter; None where nothing launches them singly."""
    if not find_runtime(cell.runtime).launches_one_by_one(cell):
        return None
    spec = cell.spec.model_copy(update={**TWIN_SHAPE, "name": f"{cell.spec.name}-twin"})
    workload = cell.workload.model_copy(update={"context_len": TWIN_CONTEXT})
    return cell.model_copy(update={"spec": spec, "workload": workload, "weights_from": None, "prefill": False})


def take_anatomies(
    plan: AnatomyPlan, store: Store, on_phase: Callable[[str], None], done: Collection[int] = ()
) -> Iterator[Anatomy]:
    """Take every missing anatomy of a plan; each one's record and trace are on disk when it is yielded.

    Args:
        plan: What is wanted.
        store: Where records and traces go; must be open for writing.
        on_phase: Told what each process does.
        done: Numbers of the anatomies that are on record and not to be taken again.

    Raises:
        UsageError: A process could not run the cell, or its trace does not show what was run.
    """
    for block in sorted(set(range(plan.runs)) - set(done)):
        on_phase(f"anatomy {block + 1} of {plan.runs}")
        anatomy = _take_one(plan, block, store, on_phase)
        store.add(anatomy)
        yield anatomy


def _take_one(plan: AnatomyPlan, block: int, store: Store, on_phase: Callable[[str], None]) -> Anatomy:
    cell, twin, record_id = plan.cell, twin_cell(plan.cell), uuid.uuid4().hex
    seed = plan.seed + block
    taken_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    job = Job(cell=cell, protocol=plan.protocol, seed=seed, twin=twin)
    limit = plan.time_limit_seconds
    measured = Measured.model_validate(ask(TIMED_CHILD, job, limit, on_phase).need("measured"))

    def trace(of: Cell, what: str) -> StepTrace:
        return trace_cell(of, seed, plan.traced_steps, store.trace_path(record_id, what), limit, on_phase)

    return Anatomy(
        record_id=record_id,
        session_id=uuid.uuid4().hex,
        taken_at=taken_at,
        block=block,
        seed=seed,
        cell=cell,
        protocol=plan.protocol,
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
        UsageError: The cell cannot run here or be traced, or its trace does not show what was run.
    """
    job = TraceJob(cell=cell, seed=seed, steps=steps, path=path)
    return StepTrace.model_validate(ask(TRACED_CHILD, job, time_limit_seconds, on_phase).need("traced"))
