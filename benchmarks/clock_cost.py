"""What does the CPU engine's own clock cost? Steps with and without it in turn, in fresh processes.

An anatomy of the engine on a CPU rests on that clock, which one thread reads after each operation of the plan. Writes
one JSON file with every step's time, and prints the median ratio within pairs of steps, with its interval over
processes. For a quiet machine.
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from memfloor.experiments.study import grid
from memfloor.measure.clock import HostClock
from memfloor.measure.environment import cpu_name, git_commit, package_versions
from memfloor.record import Cell
from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.stats import paired_ratio
from memfloor.units import format_seconds

WARM_STEPS = 5
ARMS = ("plain", "clocked")


def main() -> None:
    options = parse_arguments()
    if options.child is not None:
        print(json.dumps(take(options, options.child)))
        return
    taken = [ask_child(options, run) for run in range(options.runs)]
    cell = cell_of(options)
    within = {run: median(clocked / plain for plain, clocked in pairs_of(times)) for run, times in enumerate(taken)}
    cost = paired_ratio(within, dict.fromkeys(within, 1.0))
    result = {
        "what": "seconds of a decode step of the engine, one native call, without and with its own clock",
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cell": cell.model_dump(mode="json"),
        "cpu": cpu_name(),
        "packages": package_versions(),
        "git_commit": git_commit(),
        "runs": taken,
        "clocked_over_plain": {"value": cost.value, "ci95": cost.ci95},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result) + "\n")
    plain = median(second for times in taken for second in times["plain"])
    each = median(clocked - plain for times in taken for plain, clocked in pairs_of(times)) / taken[0]["operations"]
    print(
        f"with the clock a step takes {cost.value:.4f} {cost.ci95} times as long, {cost.blocks} processes; plain "
        f"{format_seconds(plain)}, {each * 1e9:.0f} ns for each of {taken[0]['operations']} operations"
    )


def pairs_of(times: dict) -> zip:
    """Return each pair of a process: the plain step's seconds and the clocked one's."""
    return zip(*(times[arm] for arm in ARMS), strict=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("memfloor-runs/clock-cost.json"), help="the file to write")
    parser.add_argument("--model", default="qwen2.5-0.5b")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--weights", default="bf16")
    parser.add_argument("--runs", type=int, default=10, help="fresh processes")
    parser.add_argument("--pairs", type=int, default=100, help="pairs of steps in each")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def cell_of(options: argparse.Namespace) -> Cell:
    (cell,) = grid([options.model], [options.context], [("engine", {})], "cpu", weights=options.weights)
    return cell


def ask_child(options: argparse.Namespace, run: int) -> dict:
    """Return the times of one fresh process."""
    given = [sys.executable, __file__, "--child", str(run), "--pairs", str(options.pairs)]
    given += ["--model", options.model, "--context", str(options.context), "--weights", options.weights]
    done = subprocess.run(given, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def take(options: argparse.Namespace, run: int) -> dict:
    """Take pairs of steps in this process, the two of a pair in random order."""
    steps = 2 * (WARM_STEPS + options.pairs) + 1
    engine = find_runtime("engine")(DecodeRequest(cell_of(options), options.context, steps, seed=run))
    engine.prepare()
    timed_step = engine.traced_parts().timed_step
    assert timed_step is not None, "the engine has a clock of its own on a CPU alone"
    calls: dict[str, Callable[[], object]] = {"plain": engine.step, "clocked": timed_step}
    clock, order = HostClock(), random.Random(run)
    times: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for pair in range(WARM_STEPS + options.pairs):
        for arm in order.sample(ARMS, 2):
            seconds = clock.time(calls[arm]).host_seconds
            if pair >= WARM_STEPS:
                times[arm].append(seconds)
    return {**times, "operations": len(timed_step())}


if __name__ == "__main__":
    main()
