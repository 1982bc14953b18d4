"""`memfloor anatomy`: where a step's time goes, as a ledger that adds up to the step that was timed."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from memfloor.cli.comparing import say
from memfloor.cli.measure import (
    DEFAULTS,
    EXIT_REFUSED,
    RunOptions,
    chosen_device,
    grid_options,
    protocol,
    run_count,
    time_limit,
)
from memfloor.cli.output import print_json, print_table, print_text
from memfloor.cli.parse import parse_counts, parse_runtime
from memfloor.errors import UsageError
from memfloor.record import Store
from memfloor.report.tables import runtime_label, workload_text

if TYPE_CHECKING:
    from memfloor.report.ledger import Ledger


def anatomy(
    model: str,
    /,
    *,
    runtime: str = "hf-eager",
    context: str = "2048",
    traced_steps: int | None = None,
    options: RunOptions = DEFAULTS,
) -> None:
    """Say who owns each part of a decode step: timed in one process, traced in another, summed to the timed step.

    The exit status is 3 where the ledger is refused.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json.
        runtime: Runtime and its options, as in hf-static,launch=graph.
        context: Tokens in the KV cache.
        traced_steps: Steps of each trace; 5, or 15 on a CPU, whose bandwidth may jump between processes.
        options: How runs are taken.
    """
    from memfloor.experiments.anatomy import TRACED_STEPS, AnatomyPlan, take_anatomies
    from memfloor.experiments.study import grid
    from memfloor.report.ledger import make_ledger

    if traced_steps is not None and traced_steps < 1:
        raise UsageError(f"traced-steps must be 1 or more, not {traced_steps}")
    contexts = parse_counts(context, "context")
    if len(contexts) > 1:
        raise UsageError(f"an anatomy is of one context, not of {len(contexts)}")
    device = chosen_device(options)
    cell, *others = grid([model], contexts, [parse_runtime(runtime)], device, **grid_options(options))
    if others:
        raise UsageError(f"an anatomy is of one batch size, not of {options.batch}")
    plan = AnatomyPlan(
        cell=cell,
        runs=run_count(options, 3),
        protocol=protocol(options, device),
        traced_steps=TRACED_STEPS[device] if traced_steps is None else traced_steps,
        time_limit_seconds=time_limit(options),
        seed=options.seed,
    )
    store = Store(options.out)
    store.open_for_writing()
    taken = list(take_anatomies(plan, store, say))
    ledger = make_ledger(taken)
    if options.json:
        print_json(ledger.to_json())
    else:
        show_ledger(ledger, options.out)
    if ledger.refused:
        sys.exit(EXIT_REFUSED)


def show_ledger(ledger: "Ledger", folder: Path) -> None:
    """Print a ledger as a table, and below it what checks it and where its traces lie."""
    from memfloor.report.ledger import LEDGER_COLUMNS, ledger_checks, ledger_rows

    cell = ledger.anatomies[0].cell
    title = f"{cell.spec.name} {runtime_label(cell)}, context {workload_text(cell)}; records in {folder}"
    print_table(title, LEDGER_COLUMNS, ledger_rows(ledger))
    print_text("\n".join(ledger_checks(ledger)))
    found = Store(folder).trace_files()
    paths = [str(path) for anatomy in ledger.anatomies for path in found.get(anatomy.record_id, ())]
    print_text("\n".join(["Traces that ui.perfetto.dev opens:", *paths]))
