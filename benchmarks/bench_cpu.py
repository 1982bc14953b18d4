"""Compare the engine with its peers on this machine's CPU: one interleaved run, one protocol, one paired ceiling.

Writes the records to DIR and can be started again: it takes what is missing. Prints for each model and context the
fraction of the ceiling that every arm reaches, and how much faster the engine is than each peer of equal width.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from memfloor.cli.parse import parse_counts, parse_runtime
from memfloor.cli.progress import SessionProgress
from memfloor.experiments.blocks import Plan, take_blocks
from memfloor.experiments.study import done_blocks, grid
from memfloor.record import Cell, Protocol, Run, Store
from memfloor.report.summary import summarise_cell
from memfloor.report.tables import percent_interval, runtime_label, seconds_interval
from memfloor.runtimes import find_runtime
from memfloor.stats import Ratio, paired_ratio
from memfloor.units import format_bandwidth, format_seconds

# The engine first, then its peers of about equal width.
WIDTHS = {
    "16 bits": (
        "engine",
        "engine,launch=eager",
        "llama-cpp",
        "llama-cpp,flash=off",
        "hf-compile",
        "hf-eager",
    ),
    "8 bits": (
        "engine,weights=int8,head=int8",
        "llama-cpp,weights=int8-g32,head=int8-g32",
        "llama-cpp,flash=off,weights=int8-g32,head=int8-g32",
    ),
    "4 bits": (
        "engine,weights=int4-g32,head=int4-g32",
        "engine,weights=int4-g128,head=int4-g128",
        "llama-cpp,weights=int4-g32,head=int4-g32",
        "llama-cpp,flash=off,weights=int4-g32,head=int4-g32",
    ),
}


def main() -> None:
    options = parse_arguments()
    arms = [arm for group in WIDTHS.values() for arm in group if arm not in options.without]
    cells = list(
        usable(
            grid(options.model, parse_counts(options.context, "context"), [parse_runtime(arm) for arm in arms], "cpu")
        )
    )
    plan = Plan(cells, options.runs, Protocol.on("cpu"), seed=options.seed)
    store = Store(options.out)
    store.open_for_writing()
    with SessionProgress() as progress:
        for _ in take_blocks(plan, store, progress, done_blocks(store, plan)):
            pass
    report(store, cells)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("memfloor-runs/bench-cpu"), help="folder of the records")
    parser.add_argument("--model", action="append", help="model, repeatable; qwen2.5-0.5b and -1.5b unless given")
    parser.add_argument("--context", default="512,2048", help="contexts, a comma list")
    parser.add_argument("--runs", type=int, default=5, help="blocks, each of one fresh process per arm")
    parser.add_argument("--without", action="append", default=[], help="arm to leave out, repeatable")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order")
    options = parser.parse_args()
    options.model = options.model or ["qwen2.5-0.5b", "qwen2.5-1.5b"]
    return options


def usable(cells: Sequence[Cell]) -> Iterator[Cell]:
    """Give the cells that can run here, and say once why a runtime cannot."""
    reasons: dict[str, str | None] = {}
    for cell in cells:
        if cell.runtime not in reasons:
            reasons[cell.runtime] = find_runtime(cell.runtime).unavailable_reason()
            if reasons[cell.runtime]:
                print(f"without {cell.runtime}: {reasons[cell.runtime]}")
        if reasons[cell.runtime] is None:
            yield cell


def report(store: Store, cells: Sequence[Cell]) -> None:
    """Print the table of every model and context."""
    runs = [record for record in store.read()[0] if isinstance(record, Run)]
    for model, context in dict.fromkeys((cell.spec.name, cell.workload.context_len) for cell in cells):
        here = {
            cell.key: [run for run in runs if run.cell.key == cell.key]
            for cell in cells
            if (cell.spec.name, cell.workload.context_len) == (model, context)
        }
        print(f"\n{model}, context {context}")
        for width in WIDTHS:
            report_width(width, [taken for taken in here.values() if taken and width_of(taken[0].cell) == width])


def width_of(cell: Cell) -> str:
    """Return the width that a cell competes in."""
    weights = cell.workload.weights
    return "4 bits" if weights.startswith("int4") else "8 bits" if weights.startswith("int8") else "16 bits"


def report_width(width: str, arms: Sequence[Sequence[Run]]) -> None:
    """Print the arms of one width and how much longer each takes than the engine."""
    engines = [runs for runs in arms if runs[0].cell.runtime == "engine"]
    for runs in arms:
        summary = summarise_cell(runs)
        ratios = "".join(f", {text(paired(runs, engines[0]))} of the engine's time" for _ in engines[:1])
        print(
            f"  {width}  {runtime_label(summary.cell):55} {format_seconds(summary.p50_seconds.value):>9} "
            f"[{seconds_interval(summary.p50_seconds)}]  {percent_interval(summary.fractions['streamed'].ceiling)} of "
            f"{format_bandwidth(summary.ceiling_bytes_per_second.value)}{ratios}"
        )


def paired(runs: Sequence[Run], engine: Sequence[Run]) -> Ratio:
    """Return an arm's time over the engine's, block by block."""
    return paired_ratio(*({run.block: run.p50_seconds for run in arm} for arm in (runs, engine)))


def text(ratio: Ratio) -> str:
    """Return a ratio with its interval."""
    if ratio.ci95 is None:
        return f"{ratio.value:.2f}"
    return f"{ratio.value:.2f} [{ratio.ci95[0]:.2f}, {ratio.ci95[1]:.2f}]"


if __name__ == "__main__":
    main()
