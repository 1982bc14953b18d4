"""The windows of an energy run: a decode without a pause, and a device that idles, each between two readings."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from memfloor.measure.energy_meters import EnergyMeter
from memfloor.record import EnergyReading

# How often a window is read besides its ends: a counter to show a drift, power to be integrated.
READ_SECONDS = {"joules": 1.0, "watts": 0.1}
# A sensor is late by up to one of its periods at both ends of a window.
MIN_PERIODS = 10

Now = Callable[[], float]


def wait_for(device: str) -> Callable[[], None]:
    """Return what waits until a device kind, `cpu` or `cuda`, has done all it was given."""
    if device == "cpu":
        return lambda: None
    import torch

    return torch.cuda.synchronize


class EndlessDecode:
    """Decode for as long as is wanted, going back to the first depth after every so many calls.

    Attributes:
        calls: Calls of the step since the last `restart`.
        rewinds: How often it went back since then by itself.
        rewind_seconds: How long that took.
    """

    def __init__(
        self,
        step: Callable[[], None],
        rewind: Callable[[], None],
        wait: Callable[[], None],
        span_calls: int,
        now: Now = time.perf_counter,
    ) -> None:
        """Start where the runtime was prepared.

        Args:
            step: Takes the steps of one call; may return before they have ended.
            rewind: Brings the decode back to its first depth.
            wait: Returns when the device has done all it was given.
            span_calls: Calls after which it goes back.
            now: A clock, in seconds.
        """
        self._step, self._rewind, self._wait, self._now = step, rewind, wait, now
        self._span_calls, self._since = span_calls, 0
        self.calls = self.rewinds = 0
        self.rewind_seconds = 0.0

    def restart(self) -> None:
        """Go back to the first depth, and count from zero."""
        self._go_back()
        self.calls = self.rewinds = 0
        self.rewind_seconds = 0.0

    def launch(self) -> None:
        """Start the next call's steps, at the first depth where the last ones came to the end of the span."""
        if self._since == self._span_calls:
            start = self._now()
            self._go_back()
            self.rewind_seconds += self._now() - start
            self.rewinds += 1
        self._step()
        self._since += 1
        self.calls += 1

    def wait(self) -> None:
        """Return when the steps have ended, as a stream that hands out each token must."""
        self._wait()

    def _go_back(self) -> None:
        self._rewind()
        self._wait()
        self._since = 0


@dataclass(frozen=True, slots=True)
class WindowReader:
    """Read a meter over a window.

    Attributes:
        meter: What is read.
        now: A clock, in seconds.
        sleep: Waits for so many seconds.
    """

    meter: EnergyMeter
    now: Now = time.perf_counter
    sleep: Callable[[float], None] = time.sleep

    def decoding(self, decode: EndlessDecode, seconds: float) -> tuple[EnergyReading, ...]:
        """Decode whole steps for at least so long, and return the readings.

        The meter is read while a step is under way, but at the ends, where the device has done its work.
        """
        start = self.now()
        readings = [self._read(start)]
        due = self._interval
        while (elapsed := self.now() - start) < seconds:
            decode.launch()
            if elapsed >= due:
                readings.append(self._read(start))
                due += self._interval
            decode.wait()
        return (*readings, self._read(start))

    def idle(self, seconds: float) -> tuple[EnergyReading, ...]:
        """Let the device idle for so long, and return the readings."""
        start = self.now()
        readings = [self._read(start)]
        while (left := seconds - (self.now() - start)) > 0:
            self.sleep(min(left, self._interval))
            readings.append(self._read(start))
        return tuple(readings)

    @property
    def _interval(self) -> float:
        return READ_SECONDS[self.meter.sensor.quantity]

    def _read(self, start: float) -> EnergyReading:
        value = self.meter.read()
        return EnergyReading(seconds=self.now() - start, value=value)


def warm_up(decode: EndlessDecode, seconds: float, now: Now = time.perf_counter) -> None:
    """Decode for at least so long, and start again at the first depth."""
    start = now()
    while now() - start < seconds:
        decode.launch()
        decode.wait()
    decode.restart()


def too_short(meter: EnergyMeter, seconds: float) -> str | None:
    """Say why a window is too short for a sensor; None if it is long enough."""
    sensor = meter.sensor
    needed = MIN_PERIODS * sensor.period_seconds
    if seconds >= needed:
        return None
    return (
        f"a window of {seconds:g} s is shorter than {MIN_PERIODS} periods of {sensor.name}, which are {needed:.3g} s "
        f"({sensor.period_source}); give longer windows with --seconds and --idle-seconds"
    )
