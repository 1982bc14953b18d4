"""The protocol of one run: warm-up, timed steps in parts, and the paired ceiling before, between and after them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from memfloor.measure.ceiling import Ceiling
from memfloor.measure.clock import Clock
from memfloor.record import CeilingReading, Protocol, Step

Phase = Literal["warmup", "timed", "settle"]


@dataclass(frozen=True, slots=True)
class Timings:
    """Hold what one run measured, in order."""

    steps: tuple[Step, ...]
    ceilings: tuple[CeilingReading, ...]


def take_run(
    step: Callable[[], None],
    clock: Clock,
    ceiling: Ceiling,
    protocol: Protocol,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Timings:
    """Take one run.

    The ceiling is read right before the timed steps, between their parts and right after them, so that a busy neighbour
    shows in both. The step after a reading between two parts settles the caches again and is kept but not timed.

    Args:
        step: One decode step.
        clock: The clock of the device.
        ceiling: The read-only ceiling of the device.
        protocol: Numbers of steps and passes.
        on_step: Called with each step after it was timed.
    """
    steps: list[Step] = []
    ceilings: list[CeilingReading] = []

    def take(phase: Phase, count: int) -> None:
        for _ in range(count):
            steps.append(Step(phase=phase, **asdict(clock.time(step))))
            on_step(steps[-1])

    def read_ceiling() -> None:
        ceilings.append(ceiling.read(protocol.ceiling_passes, after_steps=len(steps)))

    take("warmup", protocol.warmup_steps - 1)
    read_ceiling()
    # The last warm-up step follows the ceiling, which has emptied the caches.
    take("warmup", 1)
    for part, count in enumerate(protocol.part_steps):
        if part > 0:
            take("settle", 1)
        take("timed", count)
        read_ceiling()
    return Timings(tuple(steps), tuple(ceilings))
