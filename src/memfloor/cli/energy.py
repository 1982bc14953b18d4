"""`memfloor energy`: joules per token and watts, over windows that are long against the period of the sensor."""

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from memfloor.cli.measure import (
    DEFAULTS,
    EXIT_NOTHING_MEASURED,
    RunOptions,
    chosen_device,
    grid_options,
    run_count,
    time_limit,
)
from memfloor.cli.output import one_or_list, print_json, print_text, print_wide_table
from memfloor.cli.parse import parse_counts, parse_runtime
from memfloor.cli.progress import describe
from memfloor.errors import UsageError
from memfloor.record import Cell, EnergyProtocol, EnergyRun, Store
from memfloor.report.energy import energies_of, energy_text

if TYPE_CHECKING:
    from memfloor.report.energy import Energies

PROTOCOL = EnergyProtocol()


def energy(
    model: str,
    /,
    *,
    runtime: str = "hf-eager",
    context: str = "2048",
    seconds: float = PROTOCOL.seconds,
    idle_seconds: float = PROTOCOL.idle_seconds,
    options: RunOptions = DEFAULTS,
) -> None:
    """Say what a token costs in joules: decode without a pause between two windows of idling, in fresh processes.

    The sensor is the GPU's energy counter or its power (NVML), the processors' counters (RAPL) or a Jetson's rails
    (INA3221). Where none answers, its reason is recorded and the exit status is 1.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json.
        runtime: Runtime and its options, as in hf-static,launch=graph.
        context: Tokens in the KV cache in the middle of the decode, a comma list.
        seconds: Least length of a window of decoding; 10 periods of the sensor at least.
        idle_seconds: Length of each window of idling; likewise.
        options: How runs are taken.
    """
    from memfloor.experiments.energy import DEFAULT_RUNS, EnergyPlan, take_energy
    from memfloor.experiments.study import grid

    protocol = _protocol(seconds, idle_seconds, options)
    contexts = parse_counts(context, "context")
    device = chosen_device(options)
    cells = grid([model], contexts, [parse_runtime(runtime)], device, **grid_options(options))
    plan = EnergyPlan(cells, run_count(options, DEFAULT_RUNS), protocol, time_limit(options), options.seed)
    store = Store(options.out)
    store.open_for_writing()
    taken = []
    for record in take_energy(plan, store, lambda cell, block, phase: _say(cell, block, plan.runs, phase)):
        _say(record.cell, record.block, plan.runs, _outcome(record))
        taken.append(record)
    _show(energies_of(taken), options)


def _protocol(seconds: float, idle_seconds: float, options: RunOptions) -> EnergyProtocol:
    for name, given in (("seconds", seconds), ("idle-seconds", idle_seconds)):
        if not 0 < given < math.inf:
            raise UsageError(f"{name} must be above zero and finite, not {given:g}")
    if (options.warmup_steps, options.timed_steps) != (DEFAULTS.warmup_steps, DEFAULTS.timed_steps):
        raise UsageError("an energy run times no steps: give --seconds instead of --warmup-steps and --timed-steps")
    needed, limit = (
        2 * idle_seconds + seconds + 2 * PROTOCOL.settle_seconds + PROTOCOL.warm_seconds,
        time_limit(options),
    )
    if needed >= limit:
        raise UsageError(f"the windows take {needed:g} s, and time-limit-seconds ends a run after {limit:g} s")
    return EnergyProtocol(seconds=seconds, idle_seconds=idle_seconds)


def _say(cell: Cell, block: int, runs: int, text: str) -> None:
    print(f"memfloor: [{block + 1}/{runs}] {describe(cell)}: {text}", file=sys.stderr)


def _outcome(record: EnergyRun) -> str:
    return energy_text(record) if record.measured else f"not measured: {record.problem}"


def _show(found: "Energies", options: RunOptions) -> None:
    from memfloor.report.energy_cautions import energy_cautions
    from memfloor.report.energy_section import (
        ENERGY_COLUMNS,
        NARROW,
        WIDE_TABLE,
        depth_sentences,
        energy_row,
        sensor_sentences,
        without_row,
    )

    if options.json:
        said = [item.to_json() | {"cautions": energy_cautions([item])} for item in found.summaries]
        print_json(one_or_list(said + [item.to_json("problem") for item in found.without]))
    else:
        rows: Sequence[Sequence[str]] = [energy_row(summary) for summary in found.summaries]
        if rows:
            print_wide_table(f"Energy, records in {options.out}", ENERGY_COLUMNS, rows, WIDE_TABLE, NARROW)
        for cell in found.without:
            print_text(" ".join(without_row(cell)))
        for sentence in (*sensor_sentences(found), *depth_sentences(found), *energy_cautions(found.summaries)):
            print_text(sentence)
    if not found.summaries:
        print("memfloor: no cell gave its energy", file=sys.stderr)
        sys.exit(EXIT_NOTHING_MEASURED)
