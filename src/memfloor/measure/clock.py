"""The clocks that time one step: the synchronised host clock, and CUDA events beside it on a GPU."""

import time
from collections.abc import Callable
from typing import Any, Protocol


class Clock(Protocol):
    """Time one call."""

    def time(self, call: Callable[[], None]) -> tuple[float, float | None]:
        """Run the call to completion; return host seconds and, where there is one, the device's own seconds."""


class HostClock:
    """Time with `perf_counter_ns`, for work that is done when the call returns."""

    def time(self, call: Callable[[], None]) -> tuple[float, float | None]:
        """Return the host seconds of the call; there is no device clock."""
        start = time.perf_counter_ns()
        call()
        return (time.perf_counter_ns() - start) * 1e-9, None


class CudaClock:
    """Time with two events on the current stream and with the host clock around both and the synchronisation."""

    def __init__(self) -> None:
        import torch

        self._cuda: Any = torch.cuda
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def time(self, call: Callable[[], None]) -> tuple[float, float | None]:
        """Return host seconds up to the end of the device's work, and the seconds between the two events."""
        self._cuda.synchronize()
        start = time.perf_counter_ns()
        self._start.record()
        call()
        self._end.record()
        self._end.synchronize()
        host_seconds = (time.perf_counter_ns() - start) * 1e-9
        return host_seconds, self._start.elapsed_time(self._end) * 1e-3


def clock_for(device: str) -> Clock:
    """Return the clock of a device kind, `cpu` or `cuda`."""
    return CudaClock() if device == "cuda" else HostClock()
