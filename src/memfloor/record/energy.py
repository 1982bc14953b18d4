"""The schema of an energy run: what a sensor said while a device decoded without a pause, and while it idled."""

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from memfloor.record.environment import DeviceInfo, Environment, ObservedPath, Reading
from memfloor.record.frozen import MOST, Frozen
from memfloor.record.run import OfCell

# What a sensor gives: the energy since some moment, or the power of now.
Quantity = Literal["joules", "watts"]


class EnergyProtocol(Frozen):
    """Fix how one energy run is taken.

    Attributes:
        seconds: Least length of the window of decoding, which ends with a whole step.
        idle_seconds: Length of each window of idling, before and after.
        settle_seconds: Idling before each of these windows that is left out, while clocks fall.
        warm_seconds: Decoding before its window that is left out, while clocks rise and a sensor's average fills.
        span_steps: Decode steps after which the decode goes back to its first depth.
    """

    seconds: float = Field(default=20.0, gt=0)
    idle_seconds: float = Field(default=5.0, gt=0)
    settle_seconds: float = Field(default=2.0, ge=0)
    warm_seconds: float = Field(default=2.0, ge=0)
    span_steps: int = Field(default=64, ge=1)


class EnergySensor(Frozen):
    """Say who measured.

    Attributes:
        name: The sensor with its domains or rails.
        covers: Whose energy it is.
        quantity: What it gives.
        period_seconds: How long it may say the same, or averages over.
        period_source: Whether that was measured when it was opened, or is its maker's.
    """

    name: str
    covers: str
    quantity: Quantity
    period_seconds: float = Field(gt=0)
    period_source: Literal["measured", "documented"]


class EnergyReading(Frozen):
    """Hold one reading: seconds since the start of its window, and joules since some moment or watts."""

    seconds: float = Field(ge=0)
    value: float = Field(ge=0)


class EnergyWindow(Frozen):
    """Hold the readings of one window, the first and the last at its ends.

    Attributes:
        sensors: Clocks, temperatures and power right after it.
    """

    readings: tuple[EnergyReading, ...] = Field(min_length=2)
    sensors: dict[str, Reading]

    @model_validator(mode="after")
    def _time_goes_on(self) -> Self:
        if any(after.seconds <= before.seconds for before, after in pairwise(self.readings)):
            raise ValueError("the readings of a window are not in the order of time")
        return self

    @property
    def seconds(self) -> float:
        """Return its length."""
        return self.readings[-1].seconds - self.readings[0].seconds

    def joules(self, quantity: Quantity) -> float:
        """Return its energy: the last less the first of a counter, or power integrated by trapezoids."""
        if quantity == "joules":
            return self.readings[-1].value - self.readings[0].value
        return sum(
            (before.value + after.value) / 2 * (after.seconds - before.seconds)
            for before, after in pairwise(self.readings)
        )


class MeasuredEnergy(Frozen):
    """Hold what one fresh process measured; the window of decoding starts at the first depth.

    Attributes:
        idle_before: The model loaded and the device idle, before it decoded.
        decoding: Whole steps, one after another.
        idle_after: As `idle_before`, after it decoded.
        calls: Calls of the runtime's step in the window.
        steps_per_call: Decode steps that each took.
        start_len: Tokens in the KV cache before the first step, and after the decode went back.
        span_calls: Calls after which it went back.
        rewinds: How often it went back in the window.
        rewind_seconds: The time of that, all within the window.
    """

    sensor: EnergySensor
    idle_before: EnergyWindow
    decoding: EnergyWindow
    idle_after: EnergyWindow
    calls: int = Field(ge=1, le=MOST)
    steps_per_call: int = Field(default=1, ge=1, le=MOST)
    start_len: int = Field(ge=0, le=MOST)
    span_calls: int = Field(ge=1)
    rewinds: int = Field(ge=0)
    rewind_seconds: float = Field(ge=0)
    environment: Environment
    path: ObservedPath

    @property
    def steps(self) -> int:
        """Return the decode steps of the window."""
        return self.calls * self.steps_per_call

    @property
    def depths(self) -> tuple[int, int]:
        """Return the fewest and the most tokens that a step of the window found in the KV cache."""
        return self.start_len, self.start_len + min(self.span_calls, self.calls) * self.steps_per_call - 1

    @property
    def joules(self) -> float:
        """Return the energy of the window of decoding."""
        return self.decoding.joules(self.sensor.quantity)

    @property
    def watts(self) -> float:
        """Return the mean power while it decoded."""
        return self.joules / self.decoding.seconds

    @property
    def idle_watts(self) -> float:
        """Return the mean power of both windows of idling."""
        windows = self.idle_before, self.idle_after
        return sum(each.joules(self.sensor.quantity) for each in windows) / sum(each.seconds for each in windows)


class EnergyRun(OfCell):
    """Hold one energy run of a cell, or why it gave none.

    Attributes:
        measured: What was found; None where there is no sensor or the cell could not run.
        problem: Why not.
        device: The device as far as it was described; that of `measured` is in its environment.
    """

    kind: Literal["energy"] = "energy"
    protocol: EnergyProtocol
    measured: MeasuredEnergy | None = None
    problem: str | None = None
    device: DeviceInfo | None = None

    @model_validator(mode="after")
    def _says_why_not(self) -> Self:
        if (self.measured is None) == (self.problem is None):
            raise ValueError("an energy run has either a measurement or a problem")
        return self
