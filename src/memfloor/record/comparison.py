"""The schema of a comparison: what was said before the first run, and what each arm was seen to do."""

from typing import Literal

from pydantic import Field

from memfloor.record.anatomy import StepTrace
from memfloor.record.cell import Cell, Protocol
from memfloor.record.frozen import MOST, Frozen
from memfloor.record.run import Stored

Arm = Literal["baseline", "candidate"]
# What of an environment, or the outputs, may be allowed to differ between the runs of a comparison.
DifferingField = Literal[
    "device", "driver", "cpu", "kernel", "python", "packages", "commit", "threads", "huge-pages", "outputs"
]
Question = Literal["ab", "aa", "weights"]


class Comparison(Stored):
    """Fix a comparison of two cells before its first run; its runs carry the same session.

    Attributes:
        question: `ab` compares two cells, `aa` one cell with itself, `weights` a path of weights with the baseline that
            all paths of its session share.
        baseline: The arm whose time is the numerator of the ratio.
        candidate: The other arm.
        planned_runs: Runs of each arm, one in each block.
        protocol: How each run is taken.
        seed: Of the order within blocks, and of weights and cache with the block's number added.
        margin: Share by which the arms may differ and be called equivalent.
        expect_null_below: Speed-up that is claimed not to be reached; None if nothing is claimed.
        may_differ: What may differ between the runs without the verdict being refused.
        path: What the candidate was called, where it was asked for by a name of its own.
    """

    kind: Literal["comparison"] = "comparison"
    question: Question
    baseline: Cell
    candidate: Cell
    planned_runs: int = Field(ge=1, le=MOST)
    protocol: Protocol
    seed: int
    margin: float = Field(gt=0, lt=1)
    expect_null_below: float | None = Field(default=None, gt=1)
    may_differ: tuple[DifferingField, ...] = ()
    path: str | None = None


class Outputs(Frozen):
    """Hold what the first steps of a decode gave.

    Attributes:
        tokens: Of each step, the token of each sequence.
        logits_sha256: Digest of the last step's logits, as they lie in memory; None where the runtime keeps none.
    """

    tokens: tuple[tuple[int, ...], ...] = Field(min_length=1)
    logits_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class ArmObservation(Stored):
    """Hold what one arm of a comparison did in a process of its own, which was not timed.

    Attributes:
        arm: Which arm.
        cell: Its cell.
        seed: Of weights and cache, the same for both arms.
        trace: The traced steps; None where no trace could be taken.
        trace_problem: Why not.
        outputs: What the first steps gave; None where the runtime could not say.
        outputs_problem: Why not.
    """

    kind: Literal["arm_observation"] = "arm_observation"
    arm: Arm
    cell: Cell
    seed: int
    trace: StepTrace | None = None
    trace_problem: str | None = None
    outputs: Outputs | None = None
    outputs_problem: str | None = None
