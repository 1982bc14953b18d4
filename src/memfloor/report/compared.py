"""What the records say of each comparison: a ratio, a verdict or why there is none, and what else has changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from memfloor.record import ArmObservation, Cell, Comparison, Failure, Run, Skip, StepTrace
from memfloor.report.environments import environment_differences
from memfloor.report.invariance import Invariance, compare_traces
from memfloor.report.outputs import LAUNCH, OutputsFound, compare_outputs, differ_in_launch_alone
from memfloor.stats import Ratio, paired_ratio, verdict

Records = Sequence[Run | Failure | Skip]
# For arms that were paired afterwards; a comparison states its own.
DEFAULT_MARGIN = 0.02


@dataclass(frozen=True, slots=True)
class Compared:
    """Hold what the records say of one comparison.

    Attributes:
        comparison: What was said before the first run; None for arms that were paired afterwards.
        baseline: The arm whose time is the numerator of the ratio.
        candidate: The other arm.
        baseline_runs: Its runs, in the order of blocks.
        candidate_runs: Its runs.
        ratio: The baseline's time over the candidate's, paired by block; None where no block has both.
        verdict: `faster`, `slower`, `equivalent` or `unclear`; or why there is none.
        null: What has become of the claim that the ratio stays below a threshold; None where nothing was claimed.
        invariance: What two traces say of the arms; None where one is missing.
        confounders: What differs beside the launch, or why that is not known.
        outputs: What the arms' outputs say.
    """

    comparison: Comparison | None
    baseline: Cell
    candidate: Cell
    baseline_runs: tuple[Run, ...]
    candidate_runs: tuple[Run, ...]
    ratio: Ratio | None
    verdict: str
    null: str | None
    invariance: Invariance | None
    confounders: tuple[str, ...]
    outputs: str

    @property
    def isolation(self) -> Literal["isolated", "confounded"] | None:
        """Return whether nothing but the launch was seen to differ; None where an arm has no run."""
        if self.ratio is None:
            return None
        return "confounded" if self.confounders else "isolated"

    @property
    def margin(self) -> float:
        """Return the share by which the arms may differ and be called equivalent."""
        return self.comparison.margin if self.comparison else DEFAULT_MARGIN

    @property
    def p50_seconds(self) -> tuple[dict[int, float], dict[int, float]]:
        """Return the median step of each arm's runs, by block."""
        ours, theirs = (
            {run.block: run.p50_seconds for run in runs} for runs in (self.baseline_runs, self.candidate_runs)
        )
        return ours, theirs

    @property
    def blocks(self) -> list[int]:
        """Return the blocks that both arms have."""
        ours, theirs = self.p50_seconds
        return sorted(ours.keys() & theirs.keys())

    def ratio_of(self, blocks: Sequence[int]) -> Ratio:
        """Return the ratio that these blocks alone, which both arms have, would have given."""
        ours, theirs = ({block: arm[block] for block in blocks} for arm in self.p50_seconds)
        return paired_ratio(ours, theirs)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data for `--json`."""
        return {
            "ratio": self.ratio.value if self.ratio else None,
            "ci95": self.ratio.ci95 if self.ratio else None,
            "verdict": self.verdict,
            "isolation": self.isolation,
            "confounders": list(self.confounders),
            "blocks": self.ratio.blocks if self.ratio else 0,
            "planned_blocks": self.comparison.planned_runs if self.comparison else None,
            "margin": self.margin,
            "null": self.null,
            "outputs": self.outputs,
            "changed_kernels": [str(kernel) for kernel in self.invariance.changed] if self.invariance else None,
            "model": self.baseline.spec.name,
            "context": self.baseline.workload.context_len,
            "batch": self.baseline.workload.batch,
            "arms": {"baseline": self.baseline.runtime_text, "candidate": self.candidate.runtime_text},
        }


def compare(
    comparisons: Sequence[Comparison], observations: Sequence[ArmObservation], records: Records
) -> list[Compared]:
    """Return what the records say of each comparison, in its order."""
    return [_compare_one(item, observations, records) for item in comparisons]


def pair_afterwards(records: Records) -> list[Compared]:
    """Return comparisons of launch modes that nobody registered: runs of one session that differ in launch alone.

    The arm whose record says that it launched eagerly is the baseline. Nothing is known of traces and outputs.
    """
    sessions: dict[str, dict[str, list[Run]]] = {}
    for record in records:
        if isinstance(record, Run):
            sessions.setdefault(record.session_id, {}).setdefault(record.cell.key, []).append(record)
    found = []
    for cells in sessions.values():
        for arms in combinations([_Arm(runs[0].cell, _by_block(runs), None) for runs in cells.values()], 2):
            eager = [arm for arm in arms if arm.runs[0].path.facts.get(LAUNCH) == "eager"]
            if len(eager) == 1 and differ_in_launch_alone(arms[0].cell, arms[1].cell):
                other = arms[1] if arms[0] is eager[0] else arms[0]
                found.append(_derive(None, eager[0], other, missing=""))
    return [item for item in found if item.ratio]


@dataclass(frozen=True, slots=True)
class _Arm:
    cell: Cell
    runs: tuple[Run, ...]
    seen: ArmObservation | None

    @property
    def trace(self) -> StepTrace | None:
        return self.seen.trace if self.seen else None

    @property
    def p50_seconds(self) -> dict[int, float]:
        return {run.block: run.p50_seconds for run in self.runs}


def _by_block(runs: Sequence[Run]) -> tuple[Run, ...]:
    return tuple(sorted(runs, key=lambda run: run.block))


def _compare_one(comparison: Comparison, observations: Sequence[ArmObservation], records: Records) -> Compared:
    session = [record for record in records if record.session_id == comparison.session_id]
    seen = [item for item in observations if item.session_id == comparison.session_id]

    def arm(cell: Cell) -> _Arm:
        runs = [item for item in session if isinstance(item, Run) and item.cell.key == cell.key]
        mine = [item for item in seen if item.cell.key == cell.key]
        return _Arm(cell, _by_block(runs), mine[-1] if mine else None)

    keys = comparison.baseline.key, comparison.candidate.key
    lost = [item for item in session if item.cell.key in keys and not isinstance(item, Run)]
    missing = _reason(lost[0]) if lost else "no block has a run of both arms"
    return _derive(comparison, arm(comparison.baseline), arm(comparison.candidate), missing)


def _derive(comparison: Comparison | None, ours: _Arm, theirs: _Arm, missing: str) -> Compared:
    times = ours.p50_seconds, theirs.p50_seconds
    ratio = paired_ratio(*times) if times[0].keys() & times[1].keys() else None
    outputs = compare_outputs(ours.cell, theirs.cell, ours.seen, theirs.seen)
    invariance = compare_traces(ours.trace, theirs.trace) if ours.trace and theirs.trace else None
    return Compared(
        comparison=comparison,
        baseline=ours.cell,
        candidate=theirs.cell,
        baseline_runs=ours.runs,
        candidate_runs=theirs.runs,
        ratio=ratio,
        verdict=_verdict(comparison, ratio, (*ours.runs, *theirs.runs), outputs) if ratio else f"none: {missing}",
        null=_null(ratio, comparison.expect_null_below if comparison else None),
        invariance=invariance,
        confounders=(*_by_construction(ours.cell, theirs.cell), *_seen(invariance, ours, theirs)),
        outputs=outputs.text,
    )


def _verdict(comparison: Comparison | None, ratio: Ratio, runs: Sequence[Run], outputs: OutputsFound) -> str:
    may_differ = comparison.may_differ if comparison else ()
    differences = environment_differences(runs, may_differ)
    if differences:
        return f"refused: environments differ, {'; '.join(differences)}"
    if outputs.first_difference is not None and "outputs" not in may_differ:
        return f"refused: outputs differ from step {outputs.first_difference}"
    return verdict(ratio, comparison.margin if comparison else DEFAULT_MARGIN)


def _null(ratio: Ratio | None, below: float | None) -> str | None:
    if below is None:
        return None
    if ratio is None or ratio.ci95 is None:
        return "undecided"
    if ratio.ci95[1] < below:
        return "holds"
    return "falsified" if ratio.ci95[0] >= below else "undecided"


def _by_construction(baseline: Cell, candidate: Cell) -> list[str]:
    if baseline.runtime == candidate.runtime:
        return []
    return [f"by construction: {baseline.runtime} and {candidate.runtime} run kernels of their own"]


def _seen(invariance: Invariance | None, ours: _Arm, theirs: _Arm) -> tuple[str, ...]:
    if invariance is not None:
        return invariance.confounders
    problems = [
        f"the {name}: {arm.seen.trace_problem if arm.seen else 'nothing was seen of it'}"
        for name, arm in (("baseline", ours), ("candidate", theirs))
        if arm.trace is None
    ]
    return (f"not known, for want of a trace of {'; '.join(problems)}",)


def _reason(record: Failure | Skip) -> str:
    return record.reason if isinstance(record, Skip) else record.last_words
