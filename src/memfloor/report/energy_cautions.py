"""What a reader must know before trusting a figure of energy, in sentences whose numbers come from the records."""

from collections.abc import Sequence

from memfloor.record import EnergyWindow
from memfloor.report.alarms import FOREIGN_LOAD
from memfloor.report.energy import EnergySummary
from memfloor.report.tables import runtime_label
from memfloor.units import format_percent

# Beyond these shares a figure is not what its name says.
REWIND_SHARE, IDLE_SPREAD, DRIFT = 0.01, 0.1, 0.05


def energy_cautions(summaries: Sequence[EnergySummary]) -> list[str]:
    """Return a sentence for each thing that makes a summary unsure."""
    return [
        f"Energy of {cell.spec.name} {runtime_label(cell)} at context {cell.workload.context_len}: {text}."
        for summary in summaries
        for cell in [summary.cell]
        for find in (_rewinding, _restless, _drifting, _shared)
        if (text := find(summary))
    ]


def _rewinding(summary: EnergySummary) -> str | None:
    share = max(taken.rewind_seconds / taken.decoding.seconds for taken in summary.measured)
    if share <= REWIND_SHARE:
        return None
    return f"{format_percent(share)} of a window went into going back to its first depth, and counts as decoding"


def _restless(summary: EnergySummary) -> str | None:
    quantity = summary.sensor.quantity
    for taken in summary.measured:
        windows = taken.idle_before, taken.idle_after
        before, after = (window.joules(quantity) / window.seconds for window in windows)
        if abs(after - before) > IDLE_SPREAD * max(before, after):
            return f"it idled at {before:.4g} W before and {after:.4g} W after a window; what lies above is unsure"
    return None


def _drifting(summary: EnergySummary) -> str | None:
    for taken in summary.measured:
        readings = taken.decoding.readings
        middle = len(readings) // 2
        # The middle reading ends one half and begins the other.
        halves = [readings[: middle + 1], readings[middle:]]
        if any(len(half) < 2 for half in halves):
            continue
        first, second = (
            window.joules(summary.sensor.quantity) / window.seconds
            for window in (EnergyWindow(readings=half, sensors={}) for half in halves)
        )
        if abs(second - first) > DRIFT * max(first, second):
            return f"power went from {first:.4g} W to {second:.4g} W within a window; it had not settled"
    return None


def _shared(summary: EnergySummary) -> str | None:
    load = max(taken.environment.foreign_load for taken in summary.measured)
    others = [taken.environment.foreign_gpu_processes for taken in summary.measured]
    if summary.device.kind == "cuda" and max((count for count in others if isinstance(count, int)), default=0):
        return "other processes were on the GPU, whose energy is in it"
    if summary.device.kind == "cpu" and load > FOREIGN_LOAD:
        return f"other processes took up to {format_percent(load)} of the host's cores, whose energy is in it"
    return None
