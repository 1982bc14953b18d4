"""What control loops say: how long cycles take to answer, how often a period is missed, and what the floor leaves."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Any

from memfloor.hardware import match_driver_name, short_name
from memfloor.record import ControlLoop
from memfloor.report.coincidence import Coincidence, Excess, coincidences, excess
from memfloor.report.deadlines import Asked, CycleFloor, cycle_floor
from memfloor.report.tables import runtime_label
from memfloor.tails import Quantile, Rate, quantile, rate

LEVELS = (0.5, 0.99, 0.999)


def response_seconds(loop: ControlLoop) -> list[float]:
    """Return of each cycle that counts the time from when it was due to its end; without a pace, from its beginning."""
    busy = loop.counted(loop.cycles.busy_seconds)
    late = loop.counted(loop.cycles.late_seconds) or [0.0] * len(busy)
    return [before + during for before, during in zip(late, busy, strict=True)]


def missed(loop: ControlLoop) -> list[bool]:
    """Return of each period since warming up whether it had no answer in time: its cycle ended late, or it had none.

    A cycle that is not over when the next one is due misses its own period; the ticks that it lets pass have no cycle.
    """
    flags: list[bool] = []
    ticks = loop.counted(loop.cycles.ticks)
    passed = [after - before - 1 for before, after in pairwise(ticks)] + [0]
    for seconds, ticks_passed in zip(response_seconds(loop), passed, strict=True):
        flags += [seconds > loop.period_seconds, *[True] * ticks_passed]
    return flags


@dataclass(frozen=True)
class LoopSummary:
    """Hold the loops of one cell on one device with one period.

    Attributes:
        loops: Each a fresh process.
    """

    loops: tuple[ControlLoop, ...]

    @property
    def first(self) -> ControlLoop:
        """Return the first loop, whose settings are those of all."""
        return self.loops[0]

    @property
    def device(self) -> str:
        """Return the device's short name, or its driver's where it is not in the catalogue."""
        return short_name(self.first.environment.device.name)

    @cached_property
    def responses(self) -> list[list[float]]:
        """Return the responses of each loop."""
        return [response_seconds(loop) for loop in self.loops]

    @cached_property
    def quantiles(self) -> tuple[Quantile, ...]:
        """Return the response at each of `LEVELS`, over the cycles of all loops."""
        return tuple(quantile(self.responses, level) for level in LEVELS)

    @cached_property
    def misses(self) -> Rate:
        """Return how often a period is missed."""
        return rate([missed(loop) for loop in self.loops], self.first.period_seconds)

    @cached_property
    def coincidences(self) -> list[Coincidence]:
        """Return what the slowest cycles coincide with."""
        return coincidences(self.loops, self.responses)

    @cached_property
    def excess(self) -> Excess | None:
        """Return which part of a cycle the slowest ones spend their time in; None of too few cycles."""
        return excess(self.loops, self.responses)

    @property
    def ceiling_bytes_per_second(self) -> float:
        """Return the read-only bandwidth beside the loops, the median of all readings."""
        return median(reading.bytes_per_second for loop in self.loops for reading in loop.ceilings)

    @property
    def ceiling_range(self) -> tuple[float, float]:
        """Return the lowest and the highest of the readings of the bandwidth."""
        read = [reading.bytes_per_second for loop in self.loops for reading in loop.ceilings]
        return min(read), max(read)

    @property
    def asked(self) -> Asked:
        """Return the loop that was asked for."""
        first = self.first
        return Asked(first.cell.spec, first.cell.workload, first.steps, first.period_seconds, first.no_prefill is None)

    @property
    def floor(self) -> CycleFloor:
        """Return the floor of a cycle: reads at the bandwidth beside the loop, arithmetic at the datasheet's rate."""
        device = match_driver_name(self.first.environment.device.name)
        rate = device.bf16_flop_per_second if device else None
        return cycle_floor(self.asked, self.device, self.ceiling_bytes_per_second, rate)

    def median_seconds(self, column: str) -> float | None:
        """Return the median over all cycles of one of the columns of times; None where it was not taken."""
        values = [value for loop in self.loops for value in loop.counted(getattr(loop.cycles, column))]
        return median(values) if values else None

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain data for `--json`."""
        first, misses = self.first, self.misses
        return {
            "model": first.cell.spec.name,
            "runtime": runtime_label(first.cell),
            "device": first.environment.device.name,
            "prompt_len": first.cell.workload.context_len,
            "steps": first.steps,
            "period_seconds": first.period_seconds,
            "paced": first.paced,
            "no_prefill": first.no_prefill,
            "loops": len(self.loops),
            "cycles": sum(map(len, self.responses)),
            "response_seconds": {
                f"p{100 * item.level:g}": {"value": item.value, "low": item.low, "high": item.high}
                for item in self.quantiles
            },
            "late_p50_seconds": self.median_seconds("late_seconds"),
            "prefill_p50_seconds": self.median_seconds("prefill_seconds"),
            "decode_p50_seconds": self.median_seconds("decode_seconds"),
            "periods": misses.trials,
            "missed": misses.count,
            "hours": misses.hours,
            "missed_per_hour": misses.per_hour,
            "missed_per_hour_ci95": misses.ci95_per_hour,
            "dispersion": misses.dispersion,
            "cycle_bytes": self.asked.cycle_bytes,
            "ceiling_bytes_per_second": self.ceiling_bytes_per_second,
            "floor_seconds": self.floor.seconds,
            "floor": asdict(self.floor),
            "slowest": self.excess.to_json() if self.excess else None,
            "coincidences": [item.to_json() for item in self.coincidences],
            "silent": first.cycles.silent,
        }


def summarise_loops(loops: Sequence[ControlLoop]) -> list[LoopSummary]:
    """Group loops by cell, device, period, steps and pace, in the order in which they were first taken."""
    groups: dict[tuple[object, ...], list[ControlLoop]] = defaultdict(list)
    for loop in loops:
        asked = loop.period_seconds, loop.steps, loop.paced, loop.no_prefill
        groups[loop.cell.key, loop.environment.device.name, *asked].append(loop)
    return [LoopSummary(tuple(group)) for group in groups.values()]
