"""What happened in a cycle beside its work: faults, switches, collections, moves, clocks, waiting for a processor."""

import ctypes
import gc
import os
import resource
from collections.abc import Callable
from pathlib import Path

from memfloor.measure.nvml import Unanswered, ask
from memfloor.measure.telemetry import NOT_SUPPORTED

PRESSURE = Path("/proc/pressure/cpu")
HOST_TIMES = Path("/proc/stat")
CPU_CLOCK = "/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"
STEAL_FIELD = 8

Reader = Callable[[], float]


class CycleFacts:
    """Read, around one cycle after another, what may have slowed it.

    Counts of this process, all of its threads together, are those while a cycle is busy. Those of the host, whose files
    take longer to read, are since the end of the cycle before and are read when a cycle has ended.

    Attributes:
        silent: Facts that cannot be had here, and why.
    """

    def __init__(self, device: str) -> None:
        """Find out what answers.

        Args:
            device: Kind of the device whose clock is read.
        """
        self.silent: dict[str, str] = {}
        self._cpu = _current_cpu()
        self._host: dict[str, Reader] = {"stolen_seconds": _stolen_seconds, "cpu_pressure_seconds": _pressure_seconds}
        on_gpu = device == "cuda"
        self._gauges = {"sm_clock_hz": _sm_clock_hz} if on_gpu else {"cpu_clock_hz": self._cpu_clock_hz}
        self._read(self._gauges)
        if self._cpu is None:
            self.silent["moved_cpu"] = NOT_SUPPORTED
        self._before_host = self._read(self._host)
        self._before = _own_counts()
        self._before_cpu = self._where()

    def begin(self) -> None:
        """Note where a cycle begins."""
        self._before_cpu = self._where()
        self._before = _own_counts()

    def end(self) -> dict[str, float]:
        """Return the facts of the cycle that has just ended, by name and unit."""
        own = _own_counts()
        facts: dict[str, float] = {name: own[name] - self._before[name] for name in own}
        if self._cpu is not None:
            facts["moved_cpu"] = float(self._where() != self._before_cpu)
        host = self._read(self._host)
        facts |= {name: host[name] - self._before_host[name] for name in host}
        self._before_host = host
        return facts | self._read(self._gauges)

    def _read(self, readers: dict[str, Reader]) -> dict[str, float]:
        """Return what answers; what does not, from the first time on, is silent and asked no more."""
        found = {}
        for name, reader in list(readers.items()):
            try:
                found[name] = reader()
            except (OSError, Unanswered, LookupError, ValueError) as reason:
                self.silent[name] = str(reason) if isinstance(reason, Unanswered) else NOT_SUPPORTED
                del readers[name]
        return found

    def _where(self) -> int:
        return self._cpu() if self._cpu is not None else 0

    def _cpu_clock_hz(self) -> float:
        return int(Path(CPU_CLOCK.format(cpu=self._where())).read_text()) * 1e3


def _own_counts() -> dict[str, int]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "minor_faults": usage.ru_minflt,
        "major_faults": usage.ru_majflt,
        "voluntary_switches": usage.ru_nvcsw,
        "involuntary_switches": usage.ru_nivcsw,
        "collections": sum(generation["collections"] for generation in gc.get_stats()),
    }


def _current_cpu() -> Callable[[], int] | None:
    return getattr(ctypes.CDLL(None), "sched_getcpu", None)


def _sm_clock_hz() -> float:
    return float(ask(lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM))) * 1e6


def _stolen_seconds() -> float:
    # Of all processors, taken by the host of a virtual machine.
    with HOST_TIMES.open() as file:
        return int(file.readline().split()[STEAL_FIELD]) / os.sysconf("SC_CLK_TCK")


def _pressure_seconds() -> float:
    # In which some task of the host was ready and had no processor.
    with PRESSURE.open() as file:
        return int(file.readline().rpartition("total=")[2]) * 1e-6
