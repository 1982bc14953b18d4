"""`memfloor deadline`: can a control loop be closed in time here, how often would it miss, and why did it?"""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from memfloor.cli.comparing import say
from memfloor.cli.measure import EXIT_NOTHING_MEASURED, RunOptions, chosen_device, grid_options, run_count, time_limit
from memfloor.cli.output import print_json, print_table, print_text, print_wide_table
from memfloor.cli.parse import parse_runtime
from memfloor.cli.records import read_contents
from memfloor.hardware import catalogue, find_device
from memfloor.record import ControlLoop, Failure, Store
from memfloor.spec import Workload, load_model, unquantized
from memfloor.units import format_seconds

if TYPE_CHECKING:
    from memfloor.report.candidates import Candidate
    from memfloor.report.deadlines import Asked, CycleFloor


@Parameter(name="*")
@dataclass(frozen=True)
class LoopOptions:
    """Options of how loops are run.

    Attributes:
        minutes: How long each loop goes on.
        runs: Loops, each in a fresh process.
        decode_only: Leave the prompt in the cache, and let a cycle be its decode steps alone.
        unpaced: Run cycles one after another, without waiting for their ticks.
        weights: Format of the weights.
        head: Format of the output head; 16 bits unless given when the other weights are quantised.
        kv: Format of the KV cache; that of the weights unless given.
        threads: CPU threads of the runtime and of the ceiling; all allowed cores unless given.
        weights_from: Local checkpoint directory; random weights at the true shape unless given.
        time_limit_seconds: Time that a process may take beside its cycles.
        seed: Seed of weights and cache.
        out: Folder of the records.
    """

    minutes: float = 1.0
    runs: int = 1
    decode_only: Annotated[bool, Parameter(negative=())] = False
    unpaced: Annotated[bool, Parameter(negative=())] = False
    weights: str = "bf16"
    head: str | None = None
    kv: str | None = None
    threads: int | None = None
    weights_from: Path | None = None
    time_limit_seconds: float = 900.0
    seed: int = 0
    out: Path = Path("memfloor-runs")


DEFAULTS = LoopOptions()
EXIT_NOTHING_KEEPS = 3
# OpenVLA's: 256 tokens of an image and some 20 of an instruction.
DEFAULT_PROMPT = 276


def deadline(
    model: str,
    /,
    *,
    hz: float,
    tokens: int,
    prompt: int = DEFAULT_PROMPT,
    runtime: str = "hf-eager",
    device: str | None = None,
    records: Annotated[Path | None, Parameter(name="--from")] = None,
    json: Annotated[bool, Parameter(negative=())] = False,
    options: LoopOptions = DEFAULTS,
) -> None:
    """Run a control loop here, or say from records what would keep its period: a prompt and some tokens every period.

    Each cycle takes its prompt anew, where the runtime has a pass over whole prompts, and then one decode step for each
    token. Every cycle is kept: how late it began, how long each part took, what happened meanwhile. Interrupted, the
    same command goes on where it stopped. A period that no runtime can keep, because its bytes or its prompt's
    arithmetic alone take longer, is refused with that floor. With --from the exit status is 3 where nothing on record
    would keep the period.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json; OpenVLA's backbone is llama-2-7b.
        hz: Cycles a second.
        tokens: Tokens that each cycle decodes.
        prompt: Tokens of the prompt, those of an image included.
        runtime: Runtime and its options, as in hf-static,launch=graph.
        device: cpu or cuda, the GPU if there is one; with --from, a device of the catalogue, all unless given.
        records: Folder with records: measure nothing, and say what on record would keep the period.
        json: Print JSON instead.
        options: How loops are run.
    """
    from memfloor.report.deadlines import period_of

    period = period_of(hz, tokens, prompt)
    if records is not None:
        _decide(_asked(model, prompt, tokens, period, options), records, device, json)
        return
    taken = _run(model, prompt, tokens, period, runtime, device, options)
    _show(taken, options.out, json)


def _run(
    model: str, prompt: int, tokens: int, period_seconds: float, runtime: str, device: str | None, options: LoopOptions
) -> "list[ControlLoop | Failure]":
    from memfloor.experiments.deadline import DeadlinePlan, check_minutes, check_plan, take_loops, without_prefill
    from memfloor.experiments.study import grid

    seconds = check_minutes(options.minutes)
    name, given = parse_runtime(runtime)
    run_options = _run_options(options, device)
    (cell,) = grid([model], [prompt], [(name, given)], chosen_device(run_options), **grid_options(run_options))
    no_prefill = without_prefill(cell, options.decode_only)
    plan = DeadlinePlan(
        cell=cell.model_copy(update={"prefill": no_prefill is None}),
        no_prefill=no_prefill,
        steps=tokens,
        period_seconds=period_seconds,
        seconds=seconds,
        runs=run_count(run_options, 1),
        paced=not options.unpaced,
        time_limit_seconds=time_limit(run_options),
        seed=options.seed,
    )
    check_plan(plan)
    store = Store(options.out)
    store.open_for_writing()
    with _ending_in_order():
        return list(take_loops(plan, store, say))


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let a request to end, as a scheduler sends it, put on record what an interrupt does."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _asked(model: str, prompt: int, tokens: int, period_seconds: float, options: LoopOptions) -> "Asked":
    from memfloor.report.deadlines import Asked

    workload = Workload.of(
        prompt, weights=options.weights, kv=options.kv or unquantized(options.weights), head=options.head
    )
    return Asked(load_model(model), workload, tokens, period_seconds, not options.decode_only)


def _decide(asked: "Asked", folder: Path, device: str | None, json: bool) -> None:
    from memfloor.report.candidate_text import CANDIDATE_COLUMNS, NARROW, WIDE_TABLE, candidate_lines, candidate_row
    from memfloor.report.candidates import candidates
    from memfloor.report.control import summarise_loops
    from memfloor.report.deadlines import FLOOR_COLUMNS, device_floors, floor_lines
    from memfloor.report.summary import summarise

    devices = [find_device(device)] if device else list(catalogue().values())
    floors = device_floors(asked, devices)
    contents = read_contents(folder)
    summaries = summarise(contents.runs)[0]
    found = [
        item
        for item in candidates(asked, summarise_loops(contents.control_loops), summaries)
        if device is None or item.device == devices[0].name
    ]
    if json:
        print_json(_decision_json(asked, floors, found))
    else:
        print_table(f"Floor of {asked.cycle_text}", FLOOR_COLUMNS, [item.row(asked) for item in floors])
        print_text("\n".join(floor_lines(asked, floors)))
        if found:
            title = f"What would keep {format_seconds(asked.period_seconds)}, by {folder}"
            rows = [candidate_row(item, asked) for item in found]
            print_wide_table(title, CANDIDATE_COLUMNS, rows, WIDE_TABLE, NARROW)
        models = [summary.cell.spec.name for summary in summaries]
        print_text("\n".join(candidate_lines(found, asked, models)))
    if not any(item.verdict(asked.period_seconds) == "yes" for item in found):
        sys.exit(EXIT_NOTHING_KEEPS)


def _decision_json(asked: "Asked", floors: "Sequence[CycleFloor]", found: "Sequence[Candidate]") -> dict[str, Any]:
    period = asked.period_seconds
    return {
        "model": asked.spec.name,
        "period_seconds": period,
        "cycle_bytes": asked.cycle_bytes,
        "prompt_flop": asked.prompt_flop,
        "floors": [item.to_json(period) for item in floors],
        "candidates": [item.to_json(period) for item in found],
    }


def _run_options(options: LoopOptions, device: str | None) -> RunOptions:
    return RunOptions(
        runs=options.runs,
        weights=options.weights,
        head=options.head,
        kv=options.kv,
        device=device,
        threads=options.threads,
        weights_from=options.weights_from,
        time_limit_seconds=options.time_limit_seconds,
        seed=options.seed,
        out=options.out,
    )


def _show(taken: list[ControlLoop | Failure], folder: Path, json: bool) -> None:
    from memfloor.report.control import summarise_loops
    from memfloor.report.control_text import (
        COINCIDENCE_COLUMNS,
        LOOP_COLUMNS,
        NARROW,
        WIDE_TABLE,
        coincidence_note,
        coincidence_row,
        coincidence_title,
        loop_lines,
        loop_row,
    )

    for lost in (record for record in taken if isinstance(record, Failure)):
        print(f"memfloor: a loop was lost: {lost.last_words}", file=sys.stderr)
    summaries = summarise_loops([record for record in taken if isinstance(record, ControlLoop)])
    if json:
        print_json([summary.to_json() for summary in summaries])
    for summary in [] if json else summaries:
        title = f"Control loop, {len(summary.loops)} processes; records in {folder}"
        print_wide_table(title, LOOP_COLUMNS, [loop_row(summary)], WIDE_TABLE, NARROW)
        print_text("\n".join(loop_lines(summary)))
        if summary.coincidences:
            rows = map(coincidence_row, summary.coincidences)
            print_table(coincidence_title(summary), COINCIDENCE_COLUMNS, rows)
            print_text(coincidence_note())
    if not summaries:
        sys.exit(EXIT_NOTHING_MEASURED)
