"""What the records say of each comparison: a ratio, a verdict or why there is none, and what else has changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from memfloor.record import ArmObservation, Cell, Comparison, Failure, Run, Skip, StepTrace
from memfloor.report.alarms import alarms_of
from memfloor.report.bandwidths import EqualBandwidth, at_equal_bandwidth
from memfloor.report.invariance import Invariance, compare_traces
from memfloor.report.outputs import OutputsFound, compare_outputs
from memfloor.report.verdicts import DEFAULT_MARGIN, REFUSED, judge, null_of, verdict_of
from memfloor.stats import Ratio, bootstrap_interval, paired_ratio

Records = Sequence[Run | Failure | Skip]


@dataclass(frozen=True)
class Compared:
    """Hold what the records say of one comparison.

    Attributes:
        comparison: What was said before the first run; None for arms that were paired afterwards.
        baseline: The arm whose time is the numerator of the ratio.
        candidate: The other arm.
        baseline_runs: Its runs, in the order of blocks.
        candidate_runs: Its runs.
        ratio: The baseline's time over the candidate's, paired by block; None where no block has both.
        equal_bandwidth: What it would be at equal bandwidth; None where no block has both.
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
    equal_bandwidth: EqualBandwidth | None
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

    @cached_property
    def alarms(self) -> list[str]:
        """Return why the figures of an arm are not to be believed as they stand, if anything says so."""
        arms = ("baseline", self.baseline_runs), ("candidate", self.candidate_runs)
        return [f"{name}: {text}" for name, runs in arms for text in alarms_of(runs)]

    @property
    def refused(self) -> bool:
        """Tell whether the verdict is refused."""
        return self.verdict.startswith(REFUSED)

    @property
    def of_weights(self) -> bool:
        """Tell whether the candidate is one of several paths of weights."""
        return self.comparison is not None and self.comparison.question == "weights"

    @property
    def margin(self) -> float:
        """Return the share by which the arms may differ and be called equivalent."""
        return self.comparison.margin if self.comparison else DEFAULT_MARGIN

    @cached_property
    def p50_seconds(self) -> tuple[dict[int, float], dict[int, float]]:
        """Return the median step of each arm's runs, by block."""
        ours, theirs = (
            {run.block: run.p50_seconds for run in runs} for runs in (self.baseline_runs, self.candidate_runs)
        )
        return ours, theirs

    @cached_property
    def blocks(self) -> list[int]:
        """Return the blocks that both arms have."""
        ours, theirs = self.p50_seconds
        return sorted(ours.keys() & theirs.keys())

    @cached_property
    def bootstrap95(self) -> tuple[float, float] | None:
        """Return the study's interval of the ratio, a bootstrap over blocks; None where there are not two."""
        return bootstrap_interval(*self.p50_seconds) if len(self.blocks) > 1 else None

    def ratio_of(self, blocks: Sequence[int]) -> Ratio:
        """Return the ratio that these blocks alone, which both arms have, would have given."""
        ours, theirs = ({block: arm[block] for block in blocks} for arm in self.p50_seconds)
        return paired_ratio(ours, theirs)

    def verdict_by(self, blocks: Sequence[int]) -> str:
        """Return the verdict that these blocks alone would have given, by their times and ceilings alone."""
        arms = ([run for run in runs if run.block in blocks] for runs in (self.baseline_runs, self.candidate_runs))
        return judge(self.ratio_of(blocks), at_equal_bandwidth(*arms), self.margin)

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
            "ci95_bootstrap": self.bootstrap95,
            "ratio_at_equal_bandwidth": self.equal_bandwidth.ratio.value if self.equal_bandwidth else None,
            "ci95_at_equal_bandwidth": self.equal_bandwidth.ratio.ci95 if self.equal_bandwidth else None,
            "bandwidth_apart": self.equal_bandwidth.apart if self.equal_bandwidth else None,
            "unobserved": list(self.invariance.unobserved) if self.invariance else [],
            "alarms": self.alarms,
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


@dataclass(frozen=True, slots=True)
class Arm:
    """Hold one arm: its cell, its runs in the order of blocks, and what was seen of it; None where nothing was."""

    cell: Cell
    runs: tuple[Run, ...]
    seen: ArmObservation | None

    @property
    def trace(self) -> StepTrace | None:
        """Return its trace, if one was taken."""
        return self.seen.trace if self.seen else None

    @property
    def p50_seconds(self) -> dict[int, float]:
        """Return the median step of its runs, by block."""
        return {run.block: run.p50_seconds for run in self.runs}


def _by_block(runs: Sequence[Run]) -> tuple[Run, ...]:
    return tuple(sorted(runs, key=lambda run: run.block))


def _compare_one(comparison: Comparison, observations: Sequence[ArmObservation], records: Records) -> Compared:
    session = [record for record in records if record.session_id == comparison.session_id]
    seen = [item for item in observations if item.session_id == comparison.session_id]

    def arm(cell: Cell) -> Arm:
        runs = [item for item in session if isinstance(item, Run) and item.cell.key == cell.key]
        mine = [item for item in seen if item.cell.key == cell.key]
        return Arm(cell, _by_block(runs), mine[-1] if mine else None)

    keys = comparison.baseline.key, comparison.candidate.key
    lost = [item for item in session if item.cell.key in keys and not isinstance(item, Run)]
    missing = _reason(lost[0]) if lost else "no block has a run of both arms"
    return derive(comparison, arm(comparison.baseline), arm(comparison.candidate), missing)


def derive(comparison: Comparison | None, ours: Arm, theirs: Arm, missing: str) -> Compared:
    """Return what the records of two arms say.

    Args:
        comparison: What was said before the first run; None for arms that were paired afterwards.
        ours: The baseline.
        theirs: The candidate.
        missing: Why no block has both, if none has.
    """
    times = ours.p50_seconds, theirs.p50_seconds
    ratio = paired_ratio(*times) if times[0].keys() & times[1].keys() else None
    equal = at_equal_bandwidth(ours.runs, theirs.runs) if ratio else None
    outputs = compare_outputs(ours.cell, theirs.cell, ours.seen, theirs.seen)
    invariance = compare_traces(ours.trace, theirs.trace) if ours.trace and theirs.trace else None
    said = f"none: {missing}"
    if ratio and equal:
        said = verdict_of(comparison, ratio, equal, (*ours.runs, *theirs.runs), outputs)
    return Compared(
        comparison=comparison,
        baseline=ours.cell,
        candidate=theirs.cell,
        baseline_runs=ours.runs,
        candidate_runs=theirs.runs,
        ratio=ratio,
        equal_bandwidth=equal,
        verdict=said,
        null=null_of(comparison, ratio, equal, said),
        invariance=invariance,
        confounders=_confounders(comparison, ours, theirs, invariance, outputs),
        outputs=outputs.text,
    )


def _confounders(
    comparison: Comparison | None, ours: Arm, theirs: Arm, invariance: Invariance | None, outputs: OutputsFound
) -> tuple[str, ...]:
    if comparison is not None and comparison.question == "weights":
        return ("by construction: a path of weights is one of kernels; its anatomy says where its time goes",)
    return *_by_construction(ours.cell, theirs.cell), *_seen(invariance, ours, theirs), *outputs.confounders


def _by_construction(baseline: Cell, candidate: Cell) -> list[str]:
    if baseline.runtime == candidate.runtime:
        return []
    return [f"by construction: {baseline.runtime} and {candidate.runtime} run kernels of their own"]


def _seen(invariance: Invariance | None, ours: Arm, theirs: Arm) -> tuple[str, ...]:
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
