"""Can this loop be closed in time? Cycles of a prompt and some decode steps against a period, in fresh processes."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memfloor.errors import UsageError
from memfloor.experiments.ask import CONTROL_CHILD, ask, phases
from memfloor.experiments.comparing import identity
from memfloor.experiments.control_job import ControlJob, asked
from memfloor.experiments.loop_journal import LoopJournal, salvage
from memfloor.experiments.loop_session import loop_name, loop_session
from memfloor.hardware import match_driver_name
from memfloor.measure.environment import device_name
from memfloor.record import Cell, ControlLoop, Failure, LoopAsked, Store
from memfloor.record.run import OfCell
from memfloor.report.deadlines import device_floors
from memfloor.runtimes import Prefilling, find_runtime
from memfloor.spec import check_context
from memfloor.units import format_seconds

WARMUP_CYCLES = 5
REPORT_SECONDS = 10.0
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
    """Run every loop that is missing of a plan's session, and yield all of its records, each once it is on disk.

    A session that was interrupted goes on: its loops come first, and one that was cut short goes on in a new process
    for the time that it lacks. A process that is lost gives a loop of the cycles that it has sent, or a `Failure`.

    Args:
        plan: What is wanted.
        store: Where records go; must be open for writing.
        on_phase: Told what each process does.

    Raises:
        UsageError: The loop cannot be run here, or is running already.
    """

    def tell(loop: ControlLoop) -> None:
        how = loop.interrupted or "a loop had just ended"
        on_phase(f"{how}: kept {_cycles_text([loop])}; the same command goes on from there")

    for killed in salvage(store):
        tell(killed)
    wanted = _asked_loop(plan, 0, uuid.uuid4().hex)
    with LoopJournal(store, loop_name(wanted), tell) as journal:
        session = loop_session(wanted, store)
        if session.loops:
            on_phase(f"goes on with a session of {session.loops[0].taken_at}: {_cycles_text(session.loops)} on record")
        yield from session.loops
        for block, seconds in session.missing(plan.runs, plan.seconds):
            on_phase(f"loop {block + 1} of {plan.runs}")
            record = _take_one(plan, _asked_loop(plan, block, session.session_id), seconds, journal, on_phase)
            if isinstance(record, Failure):
                store.add(record)
            elif record.interrupted is not None:
                tell(record)
            yield record
            # Memory does not come back by asking again.
            if isinstance(record, Failure) and record.cause == "out_of_memory":
                return


def _asked_loop(plan: DeadlinePlan, block: int, session_id: str) -> LoopAsked:
    return LoopAsked(
        **identity(session_id),
        block=block,
        seed=plan.seed + block,
        cell=plan.cell,
        period_seconds=plan.period_seconds,
        steps=plan.steps,
        paced=plan.paced,
        no_prefill=plan.no_prefill,
        warmup_cycles=WARMUP_CYCLES,
        planned_seconds=plan.seconds,
        planned_runs=plan.runs,
    )


def _take_one(
    plan: DeadlinePlan, wanted: LoopAsked, seconds: float, journal: LoopJournal, on_phase: Callable[[str], None]
) -> ControlLoop | Failure:
    assert wanted.seed is not None
    job = ControlJob(
        cell=wanted.cell,
        steps=wanted.steps,
        period_seconds=wanted.period_seconds,
        seconds=seconds,
        warmup_cycles=wanted.warmup_cycles,
        paced=wanted.paced,
        seed=wanted.seed,
    )
    journal.begin(wanted)
    limit_seconds = seconds + plan.time_limit_seconds
    answer = ask(CONTROL_CHILD, job, limit_seconds, _Listener(journal, phases(on_phase), on_phase))
    loop = journal.close_loop(answer.problem)
    if loop is not None:
        return loop
    if answer.cause is None:
        raise UsageError(answer.problem)
    common = {name: getattr(wanted, name) for name in OfCell.model_fields}
    return Failure(**common, cause=answer.cause, last_words=answer.last_words, device=answer.device)


@dataclass
class _Listener:
    """Keep what a loop's process sends, and tell how it goes, of the cycles seldom."""

    journal: LoopJournal
    tell_phase: Callable[[Mapping[str, Any]], None]
    on_phase: Callable[[str], None]
    count: int = 0
    told: float = field(default_factory=time.monotonic)

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.journal.hear(event)
        self.tell_phase(event)
        if event["event"] == "cycles":
            cycles = event["cycles"]
            self.count += len(cycles["ticks"])
            if time.monotonic() - self.told >= REPORT_SECONDS:
                self.told = time.monotonic()
                self.on_phase(f"{self.count} cycles, the last one {format_seconds(cycles['busy_seconds'][-1])}")


def _cycles_text(loops: Sequence[ControlLoop]) -> str:
    cycles = sum(len(loop.cycles.ticks) - loop.warmup_cycles for loop in loops)
    return f"{cycles} cycles of {format_seconds(sum(loop.watched_seconds for loop in loops))}"
