"""Can this loop be closed in time? Cycles of a prompt and some decode steps against a period, in fresh processes."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from memfloor.errors import UsageError
from memfloor.experiments.ask import CONTROL_CHILD, LostChildError, ask
from memfloor.experiments.comparing import identity
from memfloor.experiments.control_job import ControlJob, Controlled, asked
from memfloor.hardware import match_driver_name
from memfloor.measure.environment import device_name
from memfloor.record import Cell, ControlLoop, Failure, Store
from memfloor.report.deadlines import device_floors
from memfloor.runtimes import Prefilling, find_runtime
from memfloor.spec import check_context

WARMUP_CYCLES = 5
MOST_HOURS = 24


@dataclass(frozen=True, slots=True)
class DeadlinePlan:
    """Say which loop is run how often.

    Attributes:
        cell: What is decoded and how; its context is the prompt, and `prefill` says whether each cycle takes it.
        no_prefill: Why it does not.
        steps: Decode steps of a cycle.
        period_seconds: Between two ticks.
        seconds: How long each loop goes on after warming up.
        runs: Loops, each in a fresh process.
        paced: Whether a cycle waits for its tick.
        time_limit_seconds: Time that a process may take beside its cycles.
        seed: Of weights and cache.
    """

    cell: Cell
    no_prefill: str | None
    steps: int
    period_seconds: float
    seconds: float
    runs: int = 1
    paced: bool = True
    time_limit_seconds: float = 900.0
    seed: int = 0


def without_prefill(cell: Cell, decode_only: bool) -> str | None:
    """Return why the cycles of a cell take no prompt; None where they do.

    Args:
        cell: What is decoded and how.
        decode_only: Whether only decode steps were asked for.
    """
    if decode_only:
        return "decode alone was asked for"
    found = find_runtime(cell.runtime)
    if issubclass(found, Prefilling) and found.passes_over_prompts(cell):
        return None
    return f"{cell.runtime} takes prompts token by token on this device"


def check_minutes(minutes: float) -> float:
    """Return the seconds of a loop.

    Raises:
        UsageError: It is no time above zero, or more than a day.
    """
    most = 60 * MOST_HOURS
    if not 0 < minutes <= most:
        raise UsageError(f"minutes must be above 0 and at most {most}, not {minutes:g}")
    return 60 * minutes


def check_plan(plan: DeadlinePlan) -> None:
    """Refuse a loop that cannot be run, or whose period no runtime can keep on this device by its datasheet.

    Raises:
        UsageError: With what is allowed, or the floor.
    """
    cell = plan.cell
    per_call = find_runtime(cell.runtime).steps_per_call(cell)
    if plan.steps % per_call:
        raise UsageError(
            f"{cell.runtime_text} launches {per_call} steps together; {plan.steps} tokens are no multiple of that"
        )
    check_context(cell.spec, cell.workload.context_len + plan.steps)
    device = match_driver_name(device_name(cell.device))
    # Of a device without a datasheet the process reads the ceiling, and says so then.
    if device is not None:
        device_floors(asked(cell, plan.steps, plan.period_seconds), [device])


def take_loops(plan: DeadlinePlan, store: Store, on_phase: Callable[[str], None]) -> Iterator[ControlLoop | Failure]:
    """Run every loop of a plan and yield its record once it is on disk; a process that is lost is a `Failure`.

    Args:
        plan: What is wanted.
        store: Where records go; must be open for writing.
        on_phase: Told what each process does.

    Raises:
        UsageError: The loop cannot be run here.
    """
    session_id = uuid.uuid4().hex
    for block in range(plan.runs):
        on_phase(f"loop {block + 1} of {plan.runs}")
        record = _take_one(plan, block, session_id, on_phase)
        store.add(record)
        yield record
        # Memory does not come back by asking again.
        if isinstance(record, Failure) and record.cause == "out_of_memory":
            return


def _take_one(
    plan: DeadlinePlan, block: int, session_id: str, on_phase: Callable[[str], None]
) -> ControlLoop | Failure:
    job = ControlJob(
        cell=plan.cell,
        steps=plan.steps,
        period_seconds=plan.period_seconds,
        seconds=plan.seconds,
        warmup_cycles=WARMUP_CYCLES,
        paced=plan.paced,
        seed=plan.seed + block,
    )
    of_cell: dict[str, Any] = {**identity(session_id), "block": block, "seed": job.seed, "cell": plan.cell}
    try:
        answered = ask(CONTROL_CHILD, job, plan.seconds + plan.time_limit_seconds, on_phase).need("controlled")
    except LostChildError as lost:
        return Failure(**of_cell, cause=lost.cause, last_words=str(lost), device=lost.device)
    found = Controlled.model_validate(answered)
    return ControlLoop(
        **of_cell,
        period_seconds=plan.period_seconds,
        steps=plan.steps,
        paced=plan.paced,
        no_prefill=plan.no_prefill,
        warmup_cycles=WARMUP_CYCLES,
        cycles=found.cycles,
        ceilings=found.ceilings,
        environment=found.environment,
        path=found.path,
    )
