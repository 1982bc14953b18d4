"""The loop that is asked about, and the devices on which no runtime can keep its period."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memfloor.errors import UsageError
from memfloor.floor import decode_bytes, prompt_bytes, prompt_flop
from memfloor.hardware import MemorySystem
from memfloor.spec import ModelSpec, Workload, check_context, weight_format
from memfloor.units import format_bandwidth, format_flop_rate, format_percent, format_seconds

FLOOR_COLUMNS = (
    *("device", "datasheet", "decode, reads", "prompt, reads", "prompt, arithmetic"),
    *("floor of a cycle", "of the period", "verdict"),
)


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
        return self.decode_bytes + self.prompt_bytes

    @property
    def decode_bytes(self) -> int:
        """Return the bytes that its decode steps must move."""
        return decode_bytes(self.spec, self.workload, self.steps)

    @property
    def prompt_bytes(self) -> int:
        """Return the bytes that its prompt must move; none where it takes none."""
        return prompt_bytes(self.spec, self.workload) if self.prefills else 0

    @property
    def prompt_flop(self) -> int:
        """Return the operations that its prompt cannot do without; none where it takes none."""
        return prompt_flop(self.spec, self.workload.context_len) if self.prefills else 0

    @property
    def cycle_text(self) -> str:
        """Return what a cycle is, with its formats."""
        at = self.workload
        prompt = f"{at.context_len} prompt tokens and " if self.prefills else ""
        where = "" if self.prefills else f" at {at.context_len}"
        return f"{prompt}{self.steps} decode steps{where} of {self.spec.name} in {at.weights}"


@dataclass(frozen=True, slots=True)
class CycleFloor:
    """Hold the time that no runtime goes below for a cycle on a device.

    A prompt takes the time of its reads or that of its arithmetic, whichever is longer: a device does both at once.

    Attributes:
        device: Short name.
        bytes_per_second: Bandwidth of the reads.
        decode_seconds: Of all decode steps, which are reads alone.
        prompt_read_seconds: Of the prompt's bytes.
        prompt_arithmetic_seconds: Of its operations at the device's rate; None where no rate holds for them.
        flop_per_second: That rate.
    """

    device: str
    bytes_per_second: float
    decode_seconds: float
    prompt_read_seconds: float
    prompt_arithmetic_seconds: float | None
    flop_per_second: float | None

    @property
    def prompt_seconds(self) -> float:
        """Return the part of the prompt."""
        return max(self.prompt_read_seconds, self.prompt_arithmetic_seconds or 0.0)

    @property
    def seconds(self) -> float:
        """Return the sum of its parts."""
        return self.decode_seconds + self.prompt_seconds

    @property
    def parts_text(self) -> str:
        """Return the parts in words, each with what it rests on."""
        decode = f"decode steps {format_seconds(self.decode_seconds)} by their reads"
        if not self.prompt_seconds:
            return decode
        cause = "arithmetic" if self.prompt_seconds > self.prompt_read_seconds else "reads"
        return f"{decode}, prompt {format_seconds(self.prompt_seconds)} by its {cause}"

    @property
    def rates_text(self) -> str:
        """Return the rates that it rests on."""
        rate = format_bandwidth(self.bytes_per_second)
        return rate if self.flop_per_second is None else f"{rate} and {format_flop_rate(self.flop_per_second)}"

    def row(self, asked: Asked) -> list[str]:
        """Return the row of the table of floors."""
        share = self.seconds / asked.period_seconds
        arithmetic = self.prompt_arithmetic_seconds
        return [
            self.device,
            self.rates_text,
            format_seconds(self.decode_seconds),
            format_seconds(self.prompt_read_seconds) if asked.prefills else "left out",
            "-" if arithmetic is None else format_seconds(arithmetic),
            format_seconds(self.seconds),
            format_percent(share),
            "no runtime can" if share > 1 else "not ruled out",
        ]

    def to_json(self, period_seconds: float) -> dict[str, Any]:
        """Return the floor as plain data for `--json`."""
        return {**asdict(self), "floor_seconds": self.seconds, "ruled_out": self.seconds > period_seconds}


def cycle_floor(asked: Asked, device: str, bytes_per_second: float, flop_per_second: float | None = None) -> CycleFloor:
    """Return the floor of a cycle at the rates of a device.

    Args:
        asked: The loop.
        device: Its name.
        bytes_per_second: Its bandwidth.
        flop_per_second: Its rate of dense bf16 products; None where it is not known. It is not held against quantised
            weights, whose products a runtime may take in 8 bits, faster.
    """
    rate = flop_per_second if asked.prefills and not weight_format(asked.workload.weights).is_quantized else None
    return CycleFloor(
        device=device,
        bytes_per_second=bytes_per_second,
        decode_seconds=asked.decode_bytes / bytes_per_second,
        prompt_read_seconds=asked.prompt_bytes / bytes_per_second,
        prompt_arithmetic_seconds=asked.prompt_flop / rate if rate else None,
        flop_per_second=rate,
    )


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


def device_floors(asked: Asked, devices: Iterable[MemorySystem]) -> list[CycleFloor]:
    """Return the floor of a cycle on each device, the lowest first.

    Raises:
        UsageError: No runtime can keep the period on any of them, or the cycle is beyond the model's positions.
    """
    check_context(asked.spec, asked.workload.context_len + asked.steps)
    floors = [cycle_floor(asked, it.name, it.peak_bytes_per_second, it.bf16_flop_per_second) for it in devices]
    floors.sort(key=lambda item: item.seconds)
    if floors[0].seconds > asked.period_seconds:
        raise UsageError(below_floor(asked, floors[0], f"by the datasheet of {floors[0].device}"))
    return floors


def below_floor(asked: Asked, floor: CycleFloor, where: str) -> str:
    """Return that no runtime can keep a period.

    Args:
        asked: The loop.
        floor: Of a cycle.
        where: Whose rates it rests on.
    """
    return (
        f"no runtime can: {asked.cycle_text} take at least {format_seconds(floor.seconds)} ({floor.parts_text}) "
        f"at {floor.rates_text}, {where}, and the period is {format_seconds(asked.period_seconds)}"
    )


def floor_lines(asked: Asked, floors: Sequence[CycleFloor]) -> list[str]:
    """Return what a table of floors leaves out, a sentence each."""
    if not asked.prefills:
        return []
    if weight_format(asked.workload.weights).is_quantized:
        return [
            f"The floors hold reads alone: what a prompt's arithmetic takes with {asked.workload.weights} weights "
            "depends on the type that a runtime multiplies in."
        ]
    silent = [floor.device for floor in floors if floor.flop_per_second is None]
    if not silent:
        return []
    return [f"The floors of {', '.join(silent)} hold reads alone: no rate of dense bf16 arithmetic is known of them."]
