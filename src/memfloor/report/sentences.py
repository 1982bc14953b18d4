"""What the figures say, in sentences whose numbers come from the records."""

from collections.abc import Sequence

from memfloor.report.alarms import FOREIGN_LOAD, alarm
from memfloor.report.shown import by_workload
from memfloor.report.summary import CellSummary
from memfloor.report.tables import percent_interval, runtime_label
from memfloor.units import format_bandwidth, format_bytes, format_percent, format_seconds

CACHE_MULTIPLE = 4
CEILING_SPREAD = 1.25
# Packages whose version can change what a step does.
STACK = ("torch", "transformers", "triton")


def headline(summaries: Sequence[CellSummary]) -> str:
    """Return the summary sentence: one workload from its slowest to its fastest runtime, and the range over all cells.

    The workload is the one that most runtimes were measured on.
    """
    shown = _most_compared(summaries)
    slowest, fastest = shown[0], shown[-1]
    text = f"{_question(shown)} {_reach(slowest)}"
    if fastest is not slowest:
        text += f" {_reach(fastest)}"
    values = [summary.fractions["streamed"].ceiling.value for summary in summaries]
    if len(values) > len(shown):
        text += f" Over all {len(values)} cells: {format_percent(min(values))} to {format_percent(max(values))}."
    return text


def cautions(summaries: Sequence[CellSummary]) -> list[str]:
    """Return what a reader must know before trusting a cell, a sentence each."""
    return [
        f"{cell.spec.name} {runtime_label(cell)} at context {cell.workload.context_len}: {text}."
        for summary in summaries
        for cell in [summary.cell]
        for find in (
            alarm,
            _working_set_in_cache,
            _moving_ceiling,
            _mixed_software,
            _mixed_shapes,
            _busy_host,
            _busy_gpu,
        )
        if (text := find(summary))
    ]


def _working_set_in_cache(summary: CellSummary) -> str | None:
    cache, step_bytes = summary.device.last_level_cache_bytes, summary.fractions["streamed"].total_bytes
    if not cache or step_bytes >= CACHE_MULTIPLE * cache:
        return None
    return (
        f"a step's {format_bytes(step_bytes)} is less than {CACHE_MULTIPLE} times the last-level cache of "
        f"{format_bytes(cache)}; part of it stays in the cache, so its fraction says little about memory"
    )


def _moving_ceiling(summary: CellSummary) -> str | None:
    ceilings = [run.ceiling_bytes_per_second for run in summary.runs]
    if max(ceilings) <= CEILING_SPREAD * min(ceilings):
        return None
    return (
        f"the ceiling moved from {format_bandwidth(min(ceilings))} to {format_bandwidth(max(ceilings))} between runs; "
        "neighbours or the host changed it, and latency and fraction need not have moved together"
    )


def _mixed_software(summary: CellSummary) -> str | None:
    stacks = {
        ", ".join(f"{name} {version}" for name, version in run.environment.packages.items() if name in STACK)
        for run in summary.runs
    }
    return f"its runs mix software stacks: {'; '.join(sorted(stacks))}" if len(stacks) > 1 else None


def _mixed_shapes(summary: CellSummary) -> str | None:
    facts = [run.path.facts for run in summary.runs]
    names = {name for each in facts for name in each if name.startswith("shape_")}
    changed = [name for name in names if len({each.get(name) for each in facts}) > 1]
    if not changed:
        return None
    words = ", ".join(sorted(name.removeprefix("shape_") for name in changed))
    return f"its runs were taken with different launch shapes of {words}; they are two engines"


def _busy_host(summary: CellSummary) -> str | None:
    load = max(run.environment.foreign_load for run in summary.runs)
    if load <= FOREIGN_LOAD:
        return None
    return f"other processes took up to {format_percent(load)} of the host's cores during a run"


def _busy_gpu(summary: CellSummary) -> str | None:
    counts = [run.environment.foreign_gpu_processes for run in summary.runs]
    others = max((count for count in counts if isinstance(count, int)), default=0)
    if not others:
        return None
    are = "process was" if others == 1 else "processes were"
    return f"up to {others} other {are} on the GPU during a run; its memory and its time were shared"


def _most_compared(summaries: Sequence[CellSummary]) -> list[CellSummary]:
    return sorted(by_workload(summaries)[0], key=lambda summary: -summary.p50_seconds.value)


def _question(shown: Sequence[CellSummary]) -> str:
    last = shown[-1]
    where = f"On {last.device.name}, one {last.cell.spec.name} decode step at context {last.cell.workload.context_len}"
    if len({summary.fractions["streamed"].total_bytes for summary in shown}) > 1:
        return f"{where} has a floor of its own in each format: its bytes over the bandwidth measured beside it."
    floor_seconds = last.fractions["streamed"].ceiling.value * last.p50_seconds.value
    return (
        f"{where} would take {format_seconds(floor_seconds)} if it only read its memory at the bandwidth measured "
        "beside it."
    )


def _reach(summary: CellSummary) -> str:
    return (
        f"{runtime_label(summary.cell)} takes {format_seconds(summary.p50_seconds.value)}: "
        f"{percent_interval(summary.fractions['streamed'].ceiling)} of its floor."
    )
