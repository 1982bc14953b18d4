"""What does one change of the runtime do? Two arms in interleaved blocks, and a trace of each for what else changed."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from memfloor.errors import UsageError
from memfloor.experiments.anatomy import trace_cell
from memfloor.record import Cell, Failure, Run, Skip, StepTrace
from memfloor.stats import Ratio, paired_ratio

TRACED_STEPS = 5


def speedup(records: Sequence[Run | Failure | Skip], baseline: Cell, candidate: Cell) -> Ratio:
    """Return the baseline's time over the candidate's, paired by block.

    Raises:
        UsageError: No block has a run of both arms.
    """
    arms = [
        {run.block: run.p50_seconds for run in records if isinstance(run, Run) and run.cell.key == cell.key}
        for cell in (baseline, candidate)
    ]
    if not arms[0].keys() & arms[1].keys():
        lost = next((item for item in records if not isinstance(item, Run)), None)
        words = lost.reason if isinstance(lost, Skip) else lost.last_words if isinstance(lost, Failure) else "no runs"
        raise UsageError(f"no block has a run of both arms: {words}")
    return paired_ratio(*arms)


def trace_arms(baseline: Cell, candidate: Cell, seed: int, time_limit_seconds: float) -> list[StepTrace]:
    """Return a trace of each arm, taken in processes of their own.

    Raises:
        UsageError: An arm cannot be traced.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arm.trace.json.gz"
        return [trace_cell(cell, seed, TRACED_STEPS, path, time_limit_seconds) for cell in (baseline, candidate)]
