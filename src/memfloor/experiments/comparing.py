"""What does one change do? Two arms in interleaved blocks, said before the first run, and what each was seen to do."""

import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memfloor.errors import UsageError
from memfloor.experiments.anatomy import TRACED_STEPS
from memfloor.experiments.ask import TRACED_CHILD, Answer, ask
from memfloor.experiments.blocks import Listener, Plan, take_blocks
from memfloor.experiments.session import Lacks, Session, interrupted_session
from memfloor.experiments.study import grid
from memfloor.experiments.tracing import TraceJob
from memfloor.record import (
    Arm,
    ArmObservation,
    Cell,
    Comparison,
    DifferingField,
    Outputs,
    Protocol,
    Question,
    StepTrace,
    Store,
)
from memfloor.report.matching import match_traces

OUTPUT_STEPS = 16
# Where two arms may run the same kernels: so many steps tell whether those take the same time. A CPU has more noise.
ISOLATION_STEPS = {"cpu": 60, "cuda": TRACED_STEPS["cuda"]}
# An arm is observed so often at most.
ATTEMPTS = 3

RuntimeText = tuple[str, dict[str, str]]
# The arms of the launch comparison: the same kernels issued one by one and as a whole, and what compiling adds.
LAUNCH_ARMS: dict[str, tuple[RuntimeText, RuntimeText]] = {
    "engine": (("engine", {"launch": "eager"}), ("engine", {"launch": "graph"})),
    "hf-static": (("hf-static", {}), ("hf-static", {"launch": "graph"})),
    "hf-compile": (("hf-eager", {}), ("hf-compile", {})),
}
DEFAULT_LAUNCH_ARMS = {"cpu": ("engine", "hf-compile"), "cuda": ("engine", "hf-static", "hf-compile")}


@dataclass(frozen=True, slots=True)
class Pair:
    """Hold the two cells of one comparison, and what the candidate is called if it has a name of its own."""

    baseline: Cell
    candidate: Cell
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """Hold what is said of every comparison of a command before its first run; see `Comparison`."""

    question: Question
    runs: int
    protocol: Protocol
    seed: int
    margin: float
    expect_null_below: float | None = None
    may_differ: tuple[DifferingField, ...] = ()


def launch_arms(names: Sequence[str], device: str) -> list[tuple[RuntimeText, RuntimeText]]:
    """Return the arms of the launch comparison by name, or those of a device if none is named.

    Raises:
        UsageError: A name is unknown.
    """
    for name in names:
        if name not in LAUNCH_ARMS:
            raise UsageError.unknown("arms", name, LAUNCH_ARMS)
    return [LAUNCH_ARMS[name] for name in dict.fromkeys(names or DEFAULT_LAUNCH_ARMS[device])]


def pairs_of(
    model: str,
    contexts: Sequence[int],
    arms: Sequence[tuple[RuntimeText, RuntimeText]],
    device: str,
    settings: Mapping[str, Any],
) -> list[Pair]:
    """Return the two cells of each comparison: of each pair of arms at each context and batch size.

    Args:
        model: What is decoded.
        contexts: Tokens in the KV cache.
        arms: Baseline and candidate, each a runtime and its options.
        device: Kind of device.
        settings: What else shapes a cell, as `grid` takes it.

    Raises:
        UsageError: A name is unknown, or baseline and candidate are the same cell.
    """
    pairs = []
    for baseline, candidate in arms:
        # A grid holds every cell once, so each arm has a grid of its own.
        cells = [grid([model], contexts, [arm], device, **settings) for arm in (baseline, candidate)]
        pairs += [Pair(ours, theirs) for ours, theirs in zip(*cells, strict=True)]
    for pair in pairs:
        if pair.baseline.key == pair.candidate.key:
            raise UsageError(f"baseline and candidate are both {pair.baseline.runtime_text}; they must differ")
    return pairs


def twice(cells: Sequence[Cell]) -> list[Pair]:
    """Return each cell as two arms that differ in nothing but their label."""
    return [
        Pair(cell.model_copy(update={"arm": "baseline"}), cell.model_copy(update={"arm": "candidate"}))
        for cell in cells
    ]


def comparisons_of(pairs: Sequence[Pair], terms: Terms) -> list[Comparison]:
    """Return what is said of pairs before the first run of a new session, which they share."""
    session_id = uuid.uuid4().hex
    return [
        Comparison(
            **identity(session_id),
            question=terms.question,
            baseline=pair.baseline,
            candidate=pair.candidate,
            planned_runs=terms.runs,
            protocol=terms.protocol,
            seed=terms.seed,
            margin=terms.margin,
            expect_null_below=terms.expect_null_below,
            may_differ=terms.may_differ,
            path=pair.path,
        )
        for pair in pairs
    ]


def open_session(pairs: Sequence[Pair], terms: Terms, store: Store, lacks: Lacks = lambda session: False) -> Session:
    """Write down every comparison of a session before its first run, or take up one that said the same.

    Args:
        pairs: What is compared.
        terms: What is said of it.
        store: Where records go; must be open for writing.
        lacks: Whether a session with all its runs lacks something else that is asked for, and is taken up too.
    """
    comparisons = comparisons_of(pairs, terms)
    interrupted = interrupted_session(comparisons, store, lacks)
    if interrupted:
        return interrupted
    for comparison in comparisons:
        store.add(comparison)
    return Session(comparisons)


def take_comparisons(session: Session, store: Store, listener: Listener, time_limit_seconds: float) -> Session:
    """Take the missing runs of a session in randomised blocks, the arms of each comparison side by side.

    Those that share a baseline share its runs too. An arm that cannot run takes its partner along, but no baseline that
    others need.

    Returns:
        The session with its records.
    """
    first = session.comparisons[0]
    together = {cell.key: item.baseline.key for item in session.comparisons for cell in (item.baseline, item.candidate)}
    plan = Plan(
        cells=list(session.cells.values()),
        runs=first.planned_runs,
        protocol=first.protocol,
        time_limit_seconds=time_limit_seconds,
        seed=first.seed,
        compared=lambda cell: together[cell.key],
        partners=session.partners,
    )
    taken = take_blocks(plan, store, listener, done=session.done, session_id=session.session_id)
    return replace(session, records=[*session.records, *taken])


def observe_arms(session: Session, store: Store, time_limit_seconds: float, on_phase: Callable[[str], None]) -> Session:
    """Take outputs and a trace of each arm, in processes of their own, and record them; a failure is recorded too.

    Comparisons that have no run of one of their arms are left out. On a CPU both arms are observed again, a few times,
    where they met no bandwidth in common: kernels can be compared in steps that met the same.

    Returns:
        The session with its observations.
    """
    observations = list(session.observations)
    for item in session.unobserved:
        for _ in range(ATTEMPTS):
            pair = _observe_pair(item, time_limit_seconds, on_phase)
            for observation in pair:
                store.add(observation)
            observations += pair
            if _comparable(*pair):
                break
    return replace(session, observations=observations)


def _observe_pair(
    comparison: Comparison, time_limit_seconds: float, on_phase: Callable[[str], None]
) -> list[ArmObservation]:
    arms: tuple[tuple[Arm, Cell], ...] = ("baseline", comparison.baseline), ("candidate", comparison.candidate)
    pair = []
    for arm, cell in arms:
        on_phase(f"observing {cell.runtime_text} at context {cell.workload.context_len}")
        pair.append(_observe(comparison, arm, cell, time_limit_seconds))
    return pair


def _comparable(ours: ArmObservation, theirs: ArmObservation) -> bool:
    if ours.trace is None or theirs.trace is None:
        return True
    return not isinstance(match_traces(ours.trace, theirs.trace), str)


def _observe(comparison: Comparison, arm: Arm, cell: Cell, time_limit_seconds: float) -> ArmObservation:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arm.trace.json.gz"
        job = TraceJob(
            cell=cell, seed=comparison.seed, steps=_traced_steps(comparison), path=path, output_steps=OUTPUT_STEPS
        )
        answer = ask(TRACED_CHILD, job, time_limit_seconds)
    trace = _result(answer, "traced")
    outputs = _result(answer, "outputs")
    return ArmObservation(
        **identity(comparison.session_id),
        arm=arm,
        cell=cell,
        seed=comparison.seed,
        trace=None if trace is None else StepTrace.model_validate(trace),
        trace_problem=answer.problem if trace is None else None,
        outputs=None if outputs is None else Outputs.model_validate(outputs),
        outputs_problem=answer.problem if outputs is None else None,
    )


def _traced_steps(comparison: Comparison) -> int:
    ours, theirs = comparison.baseline, comparison.candidate
    same_kernels = ours.runtime == theirs.runtime
    return ISOLATION_STEPS[ours.device] if same_kernels else TRACED_STEPS[ours.device]


def _result(answer: Answer, event: str) -> Any:
    return answer.need(event) if event in answer.events else None


def identity(session_id: str) -> dict[str, str]:
    """Return what makes a record of a session one of its own."""
    taken_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"record_id": uuid.uuid4().hex, "session_id": session_id, "taken_at": taken_at}
