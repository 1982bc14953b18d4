"""The clocks that time one step: the synchronised host clock, and CUDA events beside it on a GPU."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Times:
    """Hold the times of one call.

    Attributes:
        host_seconds: By the host's clock, up to the end of the work.
        device_seconds: Between two events of the device; None where it has no clock.
        issue_seconds: By the host's clock, up to the return of the call; None where that is the end of the work.
    """

    host_seconds: float
    device_seconds: float | None = None
    issue_seconds: float | None = None


class Clock(Protocol):
    """Time one call."""

    def time(self, call: Callable[[], None]) -> Times:
        """Run the call to completion and return its times."""


class HostClock:
    """Time with `perf_counter_ns`, for work that is done when the call returns."""

    def time(self, call: Callable[[], None]) -> Times:
        """Return the host seconds of the call; there is no device clock."""
        start = time.perf_counter_ns()
        call()
        return Times((time.perf_counter_ns() - start) * 1e-9)


class CudaClock:
    """Time with two events on the current stream and with the host clock around both and the synchronisation."""

    def __init__(self) -> None:
        import torch

        self._cuda: Any = torch.cuda
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def time(self, call: Callable[[], None]) -> Times:
        """Return host seconds up to the end of the device's work and of the launches, and those between the events."""
        self._cuda.synchronize()
        start = time.perf_counter_ns()
        self._start.record()
        call()
        issued = time.perf_counter_ns()
        self._end.record()
        self._end.synchronize()
        ended = time.perf_counter_ns()
        return Times(
            host_seconds=(ended - start) * 1e-9,
            device_seconds=self._start.elapsed_time(self._end) * 1e-3,
            issue_seconds=(issued - start) * 1e-9,
        )


def clock_for(device: str) -> Clock:
    """Return the clock of a device kind, `cpu` or `cuda`."""
    return CudaClock() if device == "cuda" else HostClock()
