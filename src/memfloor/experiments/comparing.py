"""What does one change do? Two arms in interleaved blocks, said before the first run, and what each was seen to do."""

import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memfloor.errors import UsageError
from memfloor.experiments.anatomy import TRACED_STEPS
from memfloor.experiments.ask import TRACED_CHILD, Answer, ask
from memfloor.experiments.blocks import Listener, Plan, take_blocks
from memfloor.experiments.study import grid
from memfloor.experiments.tracing import TraceJob
from memfloor.record import (
    Arm,
    ArmObservation,
    Cell,
    Comparison,
    DifferingField,
    Failure,
    Outputs,
    Protocol,
    Question,
    Run,
    Skip,
    StepTrace,
    Store,
)

OUTPUT_STEPS = 16

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


def register(pairs: Sequence[Pair], terms: Terms, store: Store) -> list[Comparison]:
    """Write down every comparison of a session before its first run, and return them."""
    session_id = uuid.uuid4().hex
    comparisons = [
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
    for comparison in comparisons:
        store.add(comparison)
    return comparisons


def take_comparisons(
    comparisons: Sequence[Comparison], store: Store, listener: Listener, time_limit_seconds: float
) -> list[Run | Failure | Skip]:
    """Take the runs of all comparisons of one session in the same randomised blocks, the arms of each side by side.

    Those that share a baseline share its runs too. An arm that cannot run takes its partner along, but no baseline that
    others need.
    """
    first = comparisons[0]
    cells = {cell.key: cell for item in comparisons for cell in (item.baseline, item.candidate)}
    together = {cell.key: item.baseline.key for item in comparisons for cell in (item.baseline, item.candidate)}
    shared = Counter(item.baseline.key for item in comparisons)
    keys = [(item.baseline.key, item.candidate.key) for item in comparisons if shared[item.baseline.key] == 1]
    plan = Plan(
        cells=list(cells.values()),
        runs=first.planned_runs,
        protocol=first.protocol,
        time_limit_seconds=time_limit_seconds,
        seed=first.seed,
        compared=lambda cell: together[cell.key],
        partners={ours: theirs for pair in keys for ours, theirs in (pair, pair[::-1])},
    )
    return list(take_blocks(plan, store, listener, session_id=first.session_id))


def observe_arms(
    comparisons: Sequence[Comparison],
    taken: Sequence[Run | Failure | Skip],
    store: Store,
    time_limit_seconds: float,
    on_phase: Callable[[str], None],
) -> list[ArmObservation]:
    """Take outputs and a trace of each arm, in processes of their own, and record them; a failure is recorded too.

    Comparisons that have no run of one of their arms are left out.
    """
    ran = {record.cell.key for record in taken if isinstance(record, Run)}
    observations = []
    for item in comparisons:
        if not {item.baseline.key, item.candidate.key} <= ran:
            continue
        arms: tuple[tuple[Arm, Cell], ...] = ("baseline", item.baseline), ("candidate", item.candidate)
        for arm, cell in arms:
            on_phase(f"observing {cell.runtime_text} at context {cell.workload.context_len}")
            observations.append(_observe(item, arm, cell, time_limit_seconds))
            store.add(observations[-1])
    return observations


def _observe(comparison: Comparison, arm: Arm, cell: Cell, time_limit_seconds: float) -> ArmObservation:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arm.trace.json.gz"
        job = TraceJob(
            cell=cell, seed=comparison.seed, steps=TRACED_STEPS[cell.device], path=path, output_steps=OUTPUT_STEPS
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


def _result(answer: Answer, event: str) -> Any:
    return answer.need(event) if event in answer.events else None


def identity(session_id: str) -> dict[str, str]:
    """Return what makes a record of a session one of its own."""
    taken_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"record_id": uuid.uuid4().hex, "session_id": session_id, "taken_at": taken_at}
