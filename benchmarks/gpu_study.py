"""Measure everything about the engine and its peers on a GPU in one go, inside a time limit.

Called again with the same --out it goes on where it stopped. Stages, the most valuable first; each has its share of the
time, and what one leaves goes to those after it:

  checks    logits against float32, equal bits however a step is launched; if they fail, nothing is measured
  ceiling   read-only bandwidth and a copy
  headline  the engine in four formats beside Hugging Face: compiled, as one graph, eager, eager with flash attention
  launch    launches issued one by one against one graph, over contexts and batches
  ladder    the engine with its rungs taken away one by one
  grid      the study's models and contexts: hf-eager, one graph, the engine
  anatomy   who owns each millisecond of the engine, one graph, hf-eager with flash attention

The folder holds the records of each stage in a folder of its own (`memfloor report` reads them all), ceiling.jsonl,
the logs of the checks and study.log. Needs torch, triton, transformers, safetensors, pydantic, numpy, scipy, psutil,
nvidia-ml-py and pytest, and for anatomies ijson; memfloor need not be installed: PYTHONPATH=src is enough.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_study_checks import check, read_ceiling, require_gpu
from gpu_study_stages import GRID_MODELS, AnatomyStage, RunStage, make_stages
from gpu_study_table import table
from gpu_study_time import Budget, History

from memfloor.errors import UsageError
from memfloor.record import Cell, Failure, Run, Skip, Store
from memfloor.report.tables import runtime_label
from memfloor.units import format_bandwidth, format_seconds

STAGES = ("checks", "ceiling", "headline", "launch", "ladder", "grid", "anatomy")
# Left for the table, and for a child that is ended.
RESERVE_SECONDS = 10.0


class Diary:
    """Print lines with the seconds since the start, and keep them in a file."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path, self._budget = path, budget

    def say(self, text: str) -> None:
        """Print and keep a line."""
        line = f"[{self._budget.elapsed:5.0f}s] {text}"
        print(line, flush=True)
        with self._path.open("a") as file:
            file.write(line + "\n")


class Follower:
    """Follow runs: keep how long each took, and say how it ended."""

    def __init__(self, budget: Budget, diary: Diary) -> None:
        self._budget, self._diary = budget, diary
        self._begun = 0.0

    def run_started(self, cell: Cell, done: int, total: int) -> None:
        self._begun = self._budget.elapsed

    def run_event(self, event: Mapping[str, Any]) -> None:
        """Say nothing: a line for each run is enough."""

    def run_ended(self, record: Run | Failure | Skip, done: int, total: int, seconds_left: float) -> None:
        seconds = self._budget.elapsed - self._begun
        # What a failure took says nothing of a run.
        if isinstance(record, Run):
            self._budget.history.note("run", record.cell, seconds)
        cell = record.cell
        place = f"{cell.spec.name} ctx {cell.workload.context_len} x{cell.workload.batch} {runtime_label(cell)}"
        self._diary.say(f"{done}/{total} {place} #{record.block}: {outcome(record)} ({seconds:.0f} s)")


def outcome(record: Run | Failure | Skip) -> str:
    """Return a record in a few words."""
    match record:
        case Run():
            return f"{format_seconds(record.p50_seconds)} beside {format_bandwidth(record.ceiling_bytes_per_second)}"
        case Failure():
            return f"{record.cause.upper()}: {record.last_words}"
        case Skip():
            return f"SKIPPED: {record.reason}"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu_study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--limit-seconds", type=float, default=540.0, help="time limit of this call (default 540)")
    parser.add_argument("--stages", default=",".join(STAGES), help="a comma list; all unless given")
    parser.add_argument("--runs", type=int, default=10, help="runs of each cell, at most (default 10)")
    parser.add_argument("--model", default="qwen2.5-7b", help="model of all stages but the grid")
    parser.add_argument("--grid-model", action="append", help="model of the grid, repeatable; the study's three")
    options = parser.parse_args(arguments)
    options.stages = options.stages.split(",")
    if unknown := [name for name in options.stages if name not in STAGES]:
        raise UsageError(f"unknown stage {unknown[0]!r}; allowed: {', '.join(STAGES)}")
    if not options.limit_seconds > RESERVE_SECONDS:
        raise UsageError(f"limit-seconds must be above {RESERVE_SECONDS:g}, not {options.limit_seconds:g}")
    if options.runs < 1:
        raise UsageError(f"runs must be 1 or more, not {options.runs}")
    return options


def study(options: argparse.Namespace) -> None:
    """Take the stages asked for inside the limit, and print the table.

    Raises:
        UsageError: There is no GPU, a check failed, or something given is unknown.
    """
    Store(options.out).open_for_writing()
    budget = Budget(options.limit_seconds - RESERVE_SECONDS, History(options.out / "seconds.jsonl"))
    diary = Diary(options.out / "study.log", budget)
    chosen = make_stages(options.out, options.model, options.grid_model or GRID_MODELS, options.runs, diary.say)
    stages = [stage for stage in chosen if stage.name in options.stages and can_run(stage, diary)]
    require_gpu(diary.say)
    if "checks" in options.stages:
        check(options.out, budget.remaining, diary.say)
    if "ceiling" in options.stages:
        read_ceiling(options.out, budget.remaining, diary.say)
    try:
        take_stages(stages, budget, diary)
    finally:
        for stage in stages:
            print("\n".join(["", *table(stage)]), flush=True)


def can_run(stage: RunStage | AnatomyStage, diary: Diary) -> bool:
    """Tell whether a stage has what it needs, and say what it lacks."""
    if isinstance(stage, AnatomyStage) and find_spec("ijson") is None:
        diary.say(
            "no anatomies: traces are read with ijson, which is not installed; "
            "pip install --target DIR ijson, and add DIR to PYTHONPATH"
        )
        return False
    return True


def take_stages(stages: Sequence[RunStage | AnatomyStage], budget: Budget, diary: Diary) -> None:
    """Give each stage its share of the time; then let each in turn use what is left."""
    follower = Follower(budget, diary)
    for share_out in (True, False):
        for place, stage in enumerate(stages):
            missing = stage.missing()
            if not missing:
                continue
            later = [other for other in stages[place + 1 :] if share_out and other.missing()]
            share = stage.weight / (stage.weight + sum(other.weight for other in later))
            if share_out:
                diary.say(f"== {stage.name}: {missing} missing, {share * budget.remaining:.0f} s for them")
            with budget.stage(share):
                stage.take(budget, follower)
    left = {stage.name: stage.missing() for stage in stages if stage.missing()}
    words = ", ".join(f"{name} {count}" for name, count in left.items())
    diary.say(f"left for another call: {words}" if left else "everything asked for is on record")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when the limit was used or all is done, 2 for what the user can mend, 130 when interrupted."""
    try:
        study(parse_arguments(arguments))
    except UsageError as problem:
        print(f"gpu_study: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gpu_study: interrupted; every finished run is on disk", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
