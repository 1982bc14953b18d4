"""Take a runtime whose cost of launching its own clock records through the anatomy and the A/B, in real processes.

Writes the records to DIR. Prints beside each recorded cost what the ledger and the A/B say, with their intervals. The
runtime is tests/cli/children/known_launch.py: products of known size, and before each a busy wait. For a quiet machine.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from memfloor.cli.progress import SessionProgress
from memfloor.experiments import anatomy, blocks, comparing
from memfloor.experiments.study import grid
from memfloor.record import Anatomy, Cell, Protocol, Run, Store
from memfloor.report.compared import Compared, compare
from memfloor.report.comparison_tables import comparison_lines
from memfloor.report.ledger import make_ledger
from memfloor.runtimes import REGISTRY
from memfloor.stats import estimate
from memfloor.units import format_percent, format_seconds

CHILDREN = Path(__file__).parents[1] / "tests" / "cli" / "children"
sys.path.insert(0, str(CHILDREN))

from known_launch import WAITS, KnownLaunch  # noqa: E402

MODEL, CONTEXT, THREADS = "qwen2.5-0.5b", 512, 1
MARGIN, TIME_LIMIT_SECONDS = 0.02, 900.0


def main() -> None:
    options = parse_arguments()
    take_over_processes()
    runtimes = [(KnownLaunch.name, {"wait": wait}) for wait in WAITS]
    cells = grid([MODEL], [CONTEXT], runtimes, "cpu", threads=THREADS)
    protocol = Protocol.on("cpu", timed_steps=options.timed_steps)
    store = Store(options.out)
    store.open_for_writing()
    found = []
    for cell in cells:
        plan = anatomy.AnatomyPlan(cell, options.runs, protocol, anatomy.TRACED_STEPS["cpu"])
        found.append(report_ledger(list(anatomy.take_anatomies(plan, store, lambda phase: None))))
    # What a launch costs beside its wait is the same in both.
    (ledger, recorded) = (long - short for short, long in zip(*found, strict=True))
    print(f"ledgers: difference of the two over what was recorded {ledger / recorded:.4f}")
    report_difference(take_comparison(cells, options.runs, protocol, store))


def take_comparison(cells: Sequence[Cell], runs: int, protocol: Protocol, store: Store) -> Compared:
    """Take the A/B of a short and a long wait as `memfloor ab` does, and return what its records say."""
    short, long = cells
    terms = comparing.Terms("ab", runs, protocol, seed=0, margin=MARGIN)
    session = comparing.open_session([comparing.Pair(long, short)], terms, store)
    with SessionProgress() as progress:
        session = comparing.take_comparisons(session, store, progress, TIME_LIMIT_SECONDS)
    session = comparing.observe_arms(session, store, TIME_LIMIT_SECONDS, lambda phase: None)
    (compared,) = compare(session.comparisons, session.observations, session.records)
    return compared


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--runs", type=int, default=10, help="anatomies of each cost, and blocks of the A/B")
    parser.add_argument("--timed-steps", type=int, default=30)
    return parser.parse_args()


def take_over_processes() -> None:
    """Let this process and those it starts know the runtime."""
    REGISTRY[KnownLaunch.name] = KnownLaunch
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CHILDREN), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    anatomy.TIMED_CHILD, anatomy.TRACED_CHILD = "known_launch_timed", "known_launch_traced"
    blocks.CHILD_MODULE, comparing.TRACED_CHILD = "known_launch_timed", "known_launch_traced"


def waited_seconds(record: Run | Anatomy) -> float:
    """Return what the runtime's own clock recorded of a step's waits, the median over steps."""
    return float(record.path.facts["waited_seconds"])


def report_ledger(anatomies: Sequence[Anatomy]) -> tuple[float, float]:
    """Print the term that holds the recorded waits, and what is left unexplained; return the term and the waits."""
    ledger = make_ledger(anatomies)
    (idle,) = [term.seconds for term in ledger.terms if term.name == "host and launch"]
    recorded = median(map(waited_seconds, anatomies))
    shares = [format_percent(value / ledger.step_seconds.value) for value in ledger.unexplained_seconds.ci95 or ()]
    print(
        f"wait={anatomies[0].cell.options['wait']}: recorded {format_seconds(recorded)}, ledger "
        f"{format_seconds(idle.value)} {[format_seconds(value) for value in idle.ci95 or ()]}, ratio "
        f"{idle.value / recorded:.3f}; unexplained {shares} of the step; {ledger.verdict}"
    )
    return idle.value, recorded


def report_difference(compared: Compared) -> None:
    """Print what the A/B says, and the difference of its arms over that of what was recorded, paired by block."""
    ratio = f"{compared.ratio.value:.4f} {compared.ratio.ci95}" if compared.ratio else "none"
    print("\n  ".join([f"A/B: ratio {ratio}; {compared.verdict}", *comparison_lines(compared)]))
    fast = {run.block: run for run in compared.candidate_runs}
    pairs = [(run, fast[run.block]) for run in compared.baseline_runs if run.block in fast]
    ratios = {
        id(slow): (slow.p50_seconds - quick.p50_seconds) / (waited_seconds(slow) - waited_seconds(quick))
        for slow, quick in pairs
    }
    found = estimate([slow for slow, _ in pairs], lambda run: ratios[id(run)])
    print(f"A/B: difference of the arms over what was recorded {found.value:.3f} {found.ci95}, {found.runs} blocks")


if __name__ == "__main__":
    main()
