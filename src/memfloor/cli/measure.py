"""`memfloor measure` and `memfloor study`: runs in fresh processes, each beside its paired ceiling."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from memfloor.cli.output import one_or_list, print_json, print_text, print_wide_table
from memfloor.cli.parse import parse_counts, parse_runtime
from memfloor.cli.progress import SessionProgress
from memfloor.cli.records import read_store
from memfloor.errors import UsageError
from memfloor.record import Cell, Failure, Protocol, Run, Skip, Store
from memfloor.report.alarms import alarms_of
from memfloor.report.sentences import cautions, headline
from memfloor.report.summary import summarise
from memfloor.report.tables import CELL_COLUMNS, NARROW, cell_row, invalid_row

Records = Sequence[Run | Failure | Skip]
STUDY_PROTOCOL = Protocol()


@Parameter(name="*")
@dataclass(frozen=True)
class RunOptions:
    """Options of every command that takes runs.

    Attributes:
        runs: Runs of each cell or arm, each a fresh process; 10 unless given, but 5 for a study on a CPU, 20 for aa
            and 3 for an anatomy, for attention and for energy.
        batch: Sequences decoded together, a comma list.
        weights: Format of the weights; also --dtype.
        head: Format of the output head; 16 bits unless given when the other weights are quantised.
        kv: Format of the KV cache; that of the weights unless given.
        device: cpu or cuda; the GPU if there is one.
        threads: CPU threads of the runtime and of the ceiling; all allowed cores unless given.
        prefill: Fill the KV cache by a real prefill instead of random numbers.
        weights_from: Local checkpoint directory; random weights at the true shape unless given.
        warmup_steps: Steps before the timed ones.
        timed_steps: Timed steps of a run.
        time_limit_seconds: Time after which a run is ended and recorded as a failure.
        seed: Seed of weights and order.
        out: Folder of the records.
        json: End standard output with JSON.
    """

    runs: int | None = None
    batch: str = "1"
    weights: Annotated[str, Parameter(name=["--weights", "--dtype"])] = "bf16"
    head: str | None = None
    kv: str | None = None
    device: str | None = None
    threads: int | None = None
    prefill: Annotated[bool, Parameter(negative=())] = False
    weights_from: Path | None = None
    warmup_steps: int = STUDY_PROTOCOL.warmup_steps
    timed_steps: int = STUDY_PROTOCOL.timed_steps
    time_limit_seconds: float = 900.0
    seed: int = 0
    out: Path = Path("memfloor-runs")
    json: Annotated[bool, Parameter(negative=())] = False


DEFAULTS = RunOptions()
EXIT_NOTHING_MEASURED, EXIT_REFUSED = 1, 3
# Characters that all columns of the cell table take.
WIDE_TABLE = 180


def measure(
    model: str,
    /,
    *,
    runtime: str = "hf-eager",
    context: str = "2048",
    options: RunOptions = DEFAULTS,
) -> None:
    """Measure one model's decode step by the study's protocol, each run in a fresh process.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json.
        runtime: Runtime and its options, as in hf-static,launch=graph.
        context: Tokens in the KV cache, a comma list.
        options: How runs are taken.
    """
    from memfloor.experiments.blocks import Plan, take_blocks
    from memfloor.experiments.study import grid

    contexts = parse_counts(context, "context")
    device = chosen_device(options)
    cells = grid([model], contexts, [parse_runtime(runtime)], device, **grid_options(options))
    plan = Plan(cells, run_count(options, 10), protocol(options, device), time_limit(options), options.seed)
    store = Store(options.out)
    store.open_for_writing()
    with SessionProgress() as progress:
        taken = list(take_blocks(plan, store, progress))
    _show(taken, cells, options)


def study(
    *,
    model: Annotated[list[str] | None, Parameter(negative=())] = None,
    runtime: Annotated[list[str] | None, Parameter(negative=())] = None,
    context: str | None = None,
    options: RunOptions = DEFAULTS,
) -> None:
    """Measure a grid of models, contexts and runtimes in interleaved blocks; started again, take what is missing.

    Args:
        model: Model of the grid, repeatable; a default for the device unless given.
        runtime: Runtime of the grid and its options, repeatable; hf-eager unless given.
        context: Contexts of the grid, a comma list; a default for the device unless given.
        options: How runs are taken.
    """
    from memfloor.experiments import study as question
    from memfloor.experiments.blocks import Plan, take_blocks

    device = chosen_device(options)
    contexts = question.DEFAULT_CONTEXTS[device] if context is None else parse_counts(context, "context")
    runtimes = [parse_runtime(text) for text in runtime or question.DEFAULT_RUNTIMES]
    cells = question.grid(model or question.DEFAULT_MODELS[device], contexts, runtimes, device, **grid_options(options))
    runs = run_count(options, question.DEFAULT_RUNS[device])
    plan = Plan(cells, runs, protocol(options, device), time_limit(options), options.seed)
    store = Store(options.out)
    store.open_for_writing()
    done = question.done_blocks(store, plan)
    with SessionProgress() as progress:
        for _ in take_blocks(plan, store, progress, done):
            pass
    keys = {cell.key for cell in cells}
    _show([record for record in read_store(options.out) if record.cell.key in keys], cells, options)


def _show(records: Records, cells: Sequence[Cell], options: RunOptions) -> None:
    summaries, invalid = summarise(records)
    if not summaries:
        print("memfloor: no cell gave a time", file=sys.stderr)
    if options.json:
        cells_said = [item.to_json() | {"alarms": alarms_of(item.runs)} for item in summaries]
        print_json(one_or_list(cells_said + [cell.to_json() for cell in invalid]))
        sys.exit(0 if summaries else EXIT_NOTHING_MEASURED)
    title = f"{len(cells)} cells, records in {options.out}"
    print_wide_table(title, CELL_COLUMNS, map(cell_row, summaries), WIDE_TABLE, NARROW)
    for cell in invalid:
        print_text(" ".join(invalid_row(cell)))
    if not summaries:
        sys.exit(EXIT_NOTHING_MEASURED)
    print_text("\n".join([headline(summaries), *cautions(summaries)]))


def chosen_device(options: RunOptions) -> str:
    """Return the device asked for, or the GPU if there is one; refuse one that cannot be measured."""
    from memfloor.engine.cpu.native import allowed_cpus, unavailable_reason
    from memfloor.measure.environment import cuda_unavailable_reason, default_device

    device = options.device or default_device()
    if device not in ("cpu", "cuda"):
        raise UsageError.unknown("device", device, ("cpu", "cuda"))
    reason = cuda_unavailable_reason() if device == "cuda" else unavailable_reason()
    if reason:
        raise UsageError(reason)
    allowed_cpus(options.threads)
    return device


def grid_options(options: RunOptions) -> dict[str, Any]:
    """Return the options that shape every cell of a grid."""
    if options.weights_from is not None and not (options.weights_from / "config.json").is_file():
        raise UsageError(f"{options.weights_from} is no Hugging Face checkpoint: it holds no config.json")
    return {
        "batch": parse_counts(options.batch, "batch"),
        "weights": options.weights,
        "head": options.head,
        "kv": options.kv,
        "threads": options.threads,
        "prefill": options.prefill,
        "weights_from": str(options.weights_from) if options.weights_from else None,
    }


def run_count(options: RunOptions, default: int) -> int:
    """Return the runs asked for, or the default."""
    runs = default if options.runs is None else options.runs
    if runs < 1:
        raise UsageError(f"runs must be 1 or more, not {runs}")
    return runs


def time_limit(options: RunOptions) -> float:
    """Return the time limit, once it is a time."""
    if not 0 < options.time_limit_seconds < math.inf:
        raise UsageError(f"time-limit-seconds must be above zero and finite, not {options.time_limit_seconds}")
    return options.time_limit_seconds


def protocol(options: RunOptions, device: str) -> Protocol:
    """Return the protocol of a run on a device."""
    if options.warmup_steps < 1:
        raise UsageError(f"warmup-steps must be 1 or more, not {options.warmup_steps}")
    if options.timed_steps < 2:
        raise UsageError(f"timed-steps must be 2 or more, not {options.timed_steps}")
    return Protocol.on(device, warmup_steps=options.warmup_steps, timed_steps=options.timed_steps)
