"""`memfloor anatomy`: where a step's time goes, as a ledger that adds up to the step that was timed."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from memfloor.cli.measure import DEFAULTS, RunOptions, chosen_device, grid_options, protocol, run_count, time_limit
from memfloor.cli.output import print_json, print_table, print_text
from memfloor.cli.parse import parse_counts, parse_runtime
from memfloor.errors import UsageError
from memfloor.record import Store
from memfloor.report.tables import runtime_label, seconds_interval
from memfloor.units import format_percent, format_seconds

if TYPE_CHECKING:
    from memfloor.report.ledger import Ledger
    from memfloor.stats import Estimate

LEDGER_COLUMNS = ("term", "time", "95 % CI", "share of gap", "what would remove it")


def anatomy(
    model: str,
    /,
    *,
    runtime: str = "hf-eager",
    context: str = "2048",
    traced_steps: int = 5,
    options: RunOptions = DEFAULTS,
) -> None:
    """Say who owns each part of a decode step: timed in one process, traced in another, summed to the timed step.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json.
        runtime: Runtime and its options, as in hf-static,launch=graph.
        context: Tokens in the KV cache.
        traced_steps: Steps of each trace.
        options: What measure and study share; three runs unless given.
    """
    from memfloor.experiments.anatomy import AnatomyPlan, take_anatomies
    from memfloor.experiments.study import grid
    from memfloor.report.ledger import make_ledger

    if traced_steps < 1:
        raise UsageError(f"traced-steps must be 1 or more, not {traced_steps}")
    contexts = parse_counts(context, "context")
    if len(contexts) > 1:
        raise UsageError(f"an anatomy is of one context, not of {len(contexts)}")
    device = chosen_device(options)
    (cell,) = grid([model], contexts, [parse_runtime(runtime)], device, **grid_options(options))
    plan = AnatomyPlan(
        cell, run_count(options, 3), protocol(options, device), traced_steps, time_limit(options), options.seed
    )
    store = Store(options.out)
    store.open_for_writing()
    taken = list(take_anatomies(plan, store, lambda phase: print(f"memfloor: {phase}", file=sys.stderr)))
    ledger = make_ledger(taken)
    if options.json:
        print_json(ledger.to_json())
    else:
        show_ledger(ledger, options.out)


def show_ledger(ledger: "Ledger", folder: Path) -> None:
    """Print a ledger as a table, and below it what checks it."""
    cell = ledger.anatomies[0].cell
    gap = ledger.step_seconds.value - ledger.floor_seconds.value
    rows = [["floor at the paired ceiling", *_times(ledger.floor_seconds), "", ""]]
    rows += [
        [term.name, *_times(term.seconds), format_percent(term.share_of_gap), term.remedy] for term in ledger.terms
    ]
    unexplained = ledger.unexplained_seconds
    rows.append(["unexplained", *_times(unexplained), format_percent(unexplained.value / gap), ""])
    rows.append(["step, timed", *_times(ledger.step_seconds), "", ""])
    title = f"{cell.spec.name} {runtime_label(cell)}, context {cell.workload.context_len}; records in {folder}"
    print_table(title, LEDGER_COLUMNS, rows)
    print_text(f"{ledger.verdict}; a traced step takes {ledger.profiled_over_unprofiled:.2f} times as long.")
    if ledger.launch_side_seconds:
        seconds = format_seconds(ledger.launch_side_seconds.value)
        print_text(f"The same operators on tensors too small to matter take {seconds} a step.")


def _times(estimate: "Estimate") -> list[str]:
    return [format_seconds(estimate.value), seconds_interval(estimate)]
