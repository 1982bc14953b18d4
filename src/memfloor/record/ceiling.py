"""Readings of the read-only bandwidth, and what two of them around a step say of it."""

from statistics import median
from typing import Annotated

from pydantic import Field

from memfloor.record.frozen import Frozen

# On a CPU each timed step is a part of its own between two short readings of the ceiling: bandwidth jumps within a
# second where neighbours come and go, or where a host moves virtual processors between cores.
CPU_CEILING_PASSES = 2
# What lies between two readings that differ by more than this was taken while bandwidth changed.
STEADY_SPREAD = 1.1


Seconds = Annotated[float, Field(gt=0)]


class CeilingReading(Frozen):
    """Hold one reading of the read-only bandwidth, taken in the process of the run.

    Attributes:
        after_steps: How many steps had been taken before it.
        pass_bytes: Bytes that one pass reads.
        pass_seconds: Time of each pass, in order.
        method: The kernel and its launch shape.
    """

    after_steps: int = Field(ge=0)
    pass_bytes: int = Field(gt=0)
    pass_seconds: tuple[Seconds, ...] = Field(min_length=1)
    method: str

    @property
    def bytes_per_second(self) -> float:
        """Return the bandwidth of the median pass."""
        return self.pass_bytes / median(self.pass_seconds)


def paired_ceiling(before: CeilingReading, after: CeilingReading) -> tuple[float, bool]:
    """Return the bandwidth of the passes before and after a step, in bytes per second, and whether it kept steady."""
    rates = [reading.pass_bytes / seconds for reading in (before, after) for seconds in reading.pass_seconds]
    one, other = before.bytes_per_second, after.bytes_per_second
    return median(rates), max(one, other) <= STEADY_SPREAD * min(one, other)
