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
from memfloor.experiments import anatomy, blocks
from memfloor.experiments.study import grid
from memfloor.record import Anatomy, Cell, Protocol, Run, Store
from memfloor.report.ledger import make_ledger
from memfloor.runtimes import REGISTRY
from memfloor.stats import estimate
from memfloor.units import format_percent, format_seconds

CHILDREN = Path(__file__).parents[1] / "tests" / "cli" / "children"
sys.path.insert(0, str(CHILDREN))

from known_launch import WAITS, KnownLaunch  # noqa: E402

MODEL, CONTEXT, THREADS = "qwen2.5-0.5b", 512, 1


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
    with SessionProgress() as progress:
        taken = list(blocks.take_blocks(blocks.Plan(cells, options.runs, protocol), store, progress))
    report_difference([run for run in taken if isinstance(run, Run)], cells)


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
    blocks.CHILD_MODULE = "known_launch_timed"


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


def report_difference(runs: Sequence[Run], cells: Sequence[Cell]) -> None:
    """Print the difference of the arms over the difference of what was recorded, paired by block."""
    fast, slow = ([run for run in runs if run.cell.key == cell.key] for cell in cells)
    pairs = [(a, b) for a in slow for b in fast if a.block == b.block]
    ratios = {id(a): (a.p50_seconds - b.p50_seconds) / (waited_seconds(a) - waited_seconds(b)) for a, b in pairs}
    found = estimate([a for a, _ in pairs], lambda run: ratios[id(run)])
    print(f"A/B: difference of the arms over what was recorded {found.value:.3f} {found.ci95}, {found.runs} blocks")


if __name__ == "__main__":
    main()
