"""Who can say how much energy a device takes: the driver of a GPU, a processor's counters, a Jetson's rails."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from memfloor.measure.nvml import Unanswered, ask
from memfloor.measure.sysfs_power import jetson_period_seconds, jetson_rails, rapl_domains
from memfloor.record import EnergySensor

SYSFS = Path("/sys")
MILLI = 1e-3
# Changes of a counter that are waited for to learn its period, and for how long at most.
WATCHED_CHANGES = 10
WATCH_SECONDS = 3.0
POLL_SECONDS = 1e-3
# What nvmlDeviceGetPowerUsage averages over on Ampere and later, but for GA100. Source: NVIDIA, NVML API Reference.
NVML_AVERAGE_SECONDS = 1.0
# Where an INA3221 does not say how long it converts: so seldom is it asked.
INA_SECONDS = 0.1


class EnergyMeter(Protocol):
    """Read one sensor.

    Attributes:
        sensor: Who measures, and what a reading is.
    """

    sensor: EnergySensor

    def read(self) -> float:
        """Return joules since some moment, or the watts of now."""


class NvmlEnergy:
    """Read the energy counter of a GPU.

    It counts millijoules since the driver was loaded, on Volta and later. Source: NVIDIA, NVML API Reference,
    nvmlDeviceGetTotalEnergyConsumption, which says nothing of how often it moves: that is measured here.
    """

    def __init__(self) -> None:
        """Watch the counter.

        Raises:
            Unanswered: It is not supported, or does not move.
        """
        self.sensor = EnergySensor(
            name="NVML total energy",
            covers="the GPU with its memory",
            quantity="joules",
            period_seconds=update_period("NVML total energy", self.read),
            period_source="measured",
        )

    def read(self) -> float:
        """Return the joules since the driver was loaded."""
        return _ask("NVML total energy", lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) * MILLI


class NvmlPower:
    """Read the power of a GPU and its associated circuitry, such as its memory."""

    def __init__(self) -> None:
        """Take one reading.

        Raises:
            Unanswered: It is not supported.
        """
        self.sensor = EnergySensor(
            name="NVML power usage",
            covers="the GPU with its memory",
            quantity="watts",
            period_seconds=NVML_AVERAGE_SECONDS,
            period_source="documented",
        )
        self.read()

    def read(self) -> float:
        """Return the watts of now, or of the last second."""
        return _ask("NVML power usage", lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu)) * MILLI


class Rapl:
    """Add up the energy counters of all packages, and of their memory where that is counted apart."""

    def __init__(self, sysfs: Path = SYSFS) -> None:
        """Find the counters and watch them.

        Args:
            sysfs: Where sysfs is mounted.

        Raises:
            Unanswered: There are none, they may not be read, or do not move.
        """
        self._domains = rapl_domains(sysfs)
        names = " + ".join(domain.name for domain in self._domains)
        memory = "memory included" if "dram" in names else "memory not included"
        self.sensor = EnergySensor(
            name=f"RAPL {names}",
            covers=f"the processors, {memory}",
            quantity="joules",
            period_seconds=update_period("RAPL", self.read),
            period_source="measured",
        )

    def read(self) -> float:
        """Return the joules since the construction."""
        return sum(domain.joules() for domain in self._domains)


class JetsonRails:
    """Read the power of a Jetson's module, by the rail that feeds it or by all its rails."""

    def __init__(self, sysfs: Path = SYSFS) -> None:
        """Find the rails and take one reading.

        Args:
            sysfs: Where sysfs is mounted.

        Raises:
            Unanswered: There are none, or they may not be read.
        """
        self._rails = jetson_rails(sysfs)
        told = jetson_period_seconds(sysfs)
        self.sensor = EnergySensor(
            name=f"INA3221 {' + '.join(rail.name for rail in self._rails)}",
            covers="the module" if len(self._rails) == 1 else "the sum of these rails",
            quantity="watts",
            period_seconds=max(told or 0.0, INA_SECONDS),
            period_source="documented",
        )

    def read(self) -> float:
        """Return the watts of now."""
        return sum(rail.watts() for rail in self._rails)


def open_meter(device: str, sysfs: Path = SYSFS) -> EnergyMeter:
    """Return the first sensor that answers for a device kind.

    Args:
        device: Whose energy is asked for, `cpu` or `cuda`.
        sysfs: Where sysfs is mounted.

    Raises:
        Unanswered: None does, with the reason of each.
    """
    candidates: dict[str, Sequence[Callable[[], EnergyMeter]]] = {
        "cuda": (NvmlEnergy, NvmlPower, lambda: JetsonRails(sysfs)),
        "cpu": (lambda: Rapl(sysfs), lambda: JetsonRails(sysfs)),
    }
    reasons: list[str] = []
    for candidate in candidates[device]:
        try:
            return candidate()
        except Unanswered as reason:
            reasons.append(str(reason))
    raise Unanswered(f"no energy sensor answers: {'; '.join(reasons)}")


def _ask(sensor: str, question: Callable[[Any, Any], Any]) -> int:
    try:
        return int(ask(question))
    except Unanswered as reason:
        raise Unanswered(f"{sensor}: {reason}") from reason


def update_period(
    name: str,
    read: Callable[[], float],
    now: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Return the longest time for which a counter stood still between two of its changes.

    Args:
        name: What it is called.
        read: Reads it.
        now: A clock, in seconds.
        sleep: Waits for so many seconds.

    Raises:
        Unanswered: It does not move.
    """
    start, last = now(), read()
    changes: list[float] = []
    while len(changes) <= WATCHED_CHANGES and now() - start < WATCH_SECONDS:
        sleep(POLL_SECONDS)
        value = read()
        if value != last:
            last = value
            changes.append(now())
    if len(changes) < 2:
        raise Unanswered(f"{name}: the counter does not move within {WATCH_SECONDS:g} s")
    return max(after - before for before, after in pairwise(changes))
