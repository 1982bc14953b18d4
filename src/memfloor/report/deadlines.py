"""The loop that is asked about, and the devices on which no runtime can keep its period."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from memfloor.errors import UsageError
from memfloor.floor import cycle_bytes
from memfloor.hardware import MemorySystem
from memfloor.spec import ModelSpec, Workload, check_context
from memfloor.units import format_bandwidth, format_percent, format_seconds

FLOOR_COLUMNS = ("device", "datasheet", "floor of a cycle", "of the period", "verdict")


@dataclass(frozen=True, slots=True)
class Asked:
    """Say which loop is asked about.

    Attributes:
        spec: The model.
        workload: Formats, and as context the prompt.
        steps: Decode steps of a cycle.
        period_seconds: Between two ticks.
        prefills: Whether each cycle takes its prompt.
    """

    spec: ModelSpec
    workload: Workload
    steps: int
    period_seconds: float
    prefills: bool = True

    @property
    def cycle_bytes(self) -> int:
        """Return the bytes that a cycle must move."""
        return cycle_bytes(self.spec, self.workload, self.steps, self.prefills)

    @property
    def cycle_text(self) -> str:
        """Return what a cycle is, with its formats."""
        at = self.workload
        prompt = f"{at.context_len} prompt tokens and " if self.prefills else ""
        where = "" if self.prefills else f" at {at.context_len}"
        return f"{prompt}{self.steps} decode steps{where} of {self.spec.name} in {at.weights}"


@dataclass(frozen=True, slots=True)
class DeviceFloor:
    """Hold the time that a cycle's bytes take at a device's datasheet bandwidth."""

    device: str
    bytes_per_second: float
    seconds: float

    def row(self, asked: Asked) -> list[str]:
        """Return the row of the table of floors."""
        share = self.seconds / asked.period_seconds
        verdict = "no runtime can" if share > 1 else "not ruled out"
        rate = format_bandwidth(self.bytes_per_second)
        return [self.device, rate, format_seconds(self.seconds), format_percent(share), verdict]

    def to_json(self, period_seconds: float) -> dict[str, Any]:
        """Return the floor as plain data for `--json`."""
        ruled_out = self.seconds > period_seconds
        return {"device": self.device, "floor_seconds": self.seconds, "ruled_out": ruled_out}


def period_of(hz: float, tokens: int, prompt: int) -> float:
    """Return the seconds between two ticks, once the loop that is asked about is one.

    Raises:
        UsageError: The rate is no number above zero, or there is no token.
    """
    if not 0 < hz < math.inf or math.isinf(1 / hz):
        raise UsageError(f"hz must be above zero and finite, not {hz:g}")
    for name, count in (("tokens", tokens), ("prompt", prompt)):
        if count < 1:
            raise UsageError(f"{name} must be 1 or more, not {count}")
    return 1 / hz


def device_floors(asked: Asked, devices: Iterable[MemorySystem]) -> list[DeviceFloor]:
    """Return the floor of a cycle on each device, the lowest first.

    Raises:
        UsageError: No runtime can keep the period on any of them, or the cycle is beyond the model's positions.
    """
    check_context(asked.spec, asked.workload.context_len + asked.steps)
    floors = [
        DeviceFloor(item.name, item.peak_bytes_per_second, asked.cycle_bytes / item.peak_bytes_per_second)
        for item in devices
    ]
    floors.sort(key=lambda item: item.seconds)
    if floors[0].seconds > asked.period_seconds:
        raise UsageError(below_floor(asked, floors[0].seconds, f"the datasheet's {_rate(floors[0])}"))
    return floors


def below_floor(asked: Asked, floor: float, where: str) -> str:
    """Return that no runtime can keep a period.

    Args:
        asked: The loop.
        floor: Seconds that its bytes take.
        where: At which bandwidth.
    """
    return (
        f"no runtime can: the bytes of {asked.cycle_text} take {format_seconds(floor)} at {where}, and the period is "
        f"{format_seconds(asked.period_seconds)}"
    )


def _rate(floor: DeviceFloor) -> str:
    return f"{format_bandwidth(floor.bytes_per_second)} of {floor.device}"
