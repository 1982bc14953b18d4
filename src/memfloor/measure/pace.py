"""A control loop: the same cycle of work again and again, each due at the next tick of a period."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from memfloor.measure.clock import Clock
from memfloor.record import Cycles

NANO, DIGITS = 1e-9, 9
# Cycles are given away when there are so many, or when the first of them is so old.
MOST_TOGETHER, MOST_SECONDS = 100, 10.0


class Facts(Protocol):
    """Tell what happened in a cycle beside its work."""

    silent: dict[str, str]

    def begin(self) -> None:
        """Note where a cycle begins."""

    def end(self) -> dict[str, float]:
        """Return the facts of the cycle that has just ended."""


@dataclass(frozen=True, slots=True)
class Work:
    """Hold the work of a cycle.

    Attributes:
        rewind: Brings the decode back to the prompt's end; no part of a cycle. None where the prefill does.
        prefill: Takes the prompt; None where it lies in the cache already.
        decode: Takes the decode steps.
    """

    rewind: Callable[[], None] | None
    prefill: Callable[[], None] | None
    decode: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """Say when cycles are due and how many there are.

    Attributes:
        period_seconds: Between two ticks.
        seconds: How long the loop goes on after warming up.
        warmup_cycles: Cycles before that.
        paced: Whether a cycle waits for its tick, or follows the one before at once.
    """

    period_seconds: float
    seconds: float
    warmup_cycles: int
    paced: bool = True


@dataclass(frozen=True, slots=True)
class _Cycle:
    tick: int
    late_seconds: float
    prefill_seconds: float
    decode_seconds: float
    device_decode_seconds: float | None
    busy_seconds: float
    facts: dict[str, float]


@dataclass
class _Loop:
    """Take cycles, and keep those that are not given away yet."""

    work: Work
    clock: Clock
    facts: Facts
    pace: Pace
    origin_nanoseconds: int
    cycles: list[_Cycle] = field(default_factory=list)
    count: int = 0
    # Of the cycles after those for warming up: the tick of the first, and how long they were busy.
    first_tick: int = 0
    busy_seconds: float = 0.0
    end_nanoseconds: int = 0
    given_nanoseconds: int = 0

    def take(self, tick: int) -> None:
        if self.work.rewind is not None:
            self.work.rewind()
        due = self.due_nanoseconds(tick)
        if self.pace.paced:
            _sleep_until(due)
        self.facts.begin()
        start = time.perf_counter_ns()
        prefill = self.clock.time(self.work.prefill).host_seconds if self.work.prefill else 0.0
        decode = self.clock.time(self.work.decode)
        self.end_nanoseconds = time.perf_counter_ns()
        self.cycles.append(
            _Cycle(
                tick=tick,
                # The clock may wake a moment early.
                late_seconds=max(0, start - due) * NANO,
                prefill_seconds=prefill,
                decode_seconds=decode.host_seconds,
                device_decode_seconds=decode.device_seconds,
                busy_seconds=(self.end_nanoseconds - start) * NANO,
                facts=self.facts.end(),
            )
        )
        self._count(self.cycles[-1])

    def _count(self, cycle: _Cycle) -> None:
        if self.count == self.pace.warmup_cycles:
            self.first_tick = cycle.tick
        if self.count >= self.pace.warmup_cycles:
            self.busy_seconds += cycle.busy_seconds
        self.count += 1

    def is_over(self, tick: int) -> bool:
        if self.count < self.pace.warmup_cycles + 2:
            return False
        if self.pace.paced:
            return (tick - self.first_tick) * self.pace.period_seconds >= self.pace.seconds
        return self.busy_seconds >= self.pace.seconds

    def is_full(self) -> bool:
        age_seconds = (self.end_nanoseconds - self.given_nanoseconds) * NANO
        return len(self.cycles) >= MOST_TOGETHER or age_seconds >= MOST_SECONDS

    def give(self) -> Cycles:
        given, self.cycles = _columns(self), []
        self.given_nanoseconds = self.end_nanoseconds
        return given

    def due_nanoseconds(self, tick: int) -> int:
        return self.origin_nanoseconds + round(tick * self.pace.period_seconds / NANO)

    def next_tick(self, tick: int) -> int:
        """Return the first tick that was not past when the work ended; what the facts took makes none pass."""
        if not self.pace.paced:
            return tick + 1
        passed = (self.end_nanoseconds - self.origin_nanoseconds) * NANO / self.pace.period_seconds
        return max(tick + 1, -int(-passed // 1))


def take_cycles(work: Work, clock: Clock, facts: Facts, pace: Pace) -> Iterator[Cycles]:
    """Run a control loop and give every cycle in order, some at a time, those for warming up included.

    A cycle begins at its tick. One that is not over at the next tick lets it pass, and all others that it covers: the
    next cycle begins at the first tick after its end. At least two cycles count. What is done with cycles that were
    given is done between two cycles and lets no tick pass.

    Args:
        work: Of a cycle.
        clock: The clock of the device.
        facts: Read around each cycle and not within it.
        pace: When cycles are due and how many there are.
    """
    start = time.perf_counter_ns()
    loop = _Loop(work, clock, facts, pace, origin_nanoseconds=start, given_nanoseconds=start)
    tick = 0
    while not loop.is_over(tick):
        loop.take(tick)
        tick = loop.next_tick(tick)
        if loop.is_full():
            yield loop.give()
    if loop.cycles:
        yield loop.give()


def _columns(loop: _Loop) -> Cycles:
    cycles = loop.cycles
    # A sensor that fell silent on the way has no column.
    answered = [name for name in cycles[0].facts if all(name in cycle.facts for cycle in cycles)]
    return Cycles(
        ticks=tuple(cycle.tick for cycle in cycles),
        late_seconds=_column(cycle.late_seconds for cycle in cycles) if loop.pace.paced else (),
        prefill_seconds=_column(cycle.prefill_seconds for cycle in cycles) if loop.work.prefill else (),
        decode_seconds=_column(cycle.decode_seconds for cycle in cycles),
        device_decode_seconds=_column(cycle.device_decode_seconds for cycle in cycles),
        busy_seconds=_column(cycle.busy_seconds for cycle in cycles),
        facts={name: _column(cycle.facts[name] for cycle in cycles) for name in answered},
        silent=loop.facts.silent,
    )


def _column(values: Iterable[float | None]) -> tuple[float, ...]:
    # Clocks count whole nanoseconds: what a product with 1e-9 adds behind them is no fact.
    return tuple(round(value, DIGITS) for value in values if value is not None)


def _sleep_until(nanoseconds: int) -> None:
    left = nanoseconds - time.perf_counter_ns()
    if left > 0:
        time.sleep(left * NANO)
