"""Clocks, temperatures, power and foreign load around a run; a silent sensor is recorded in its own words."""

import os
from collections.abc import Callable
from typing import Any

import psutil

from memfloor.measure.nvml import Unanswered, ask
from memfloor.record import DeviceInfo

NOT_SUPPORTED = "not supported"


def read_sensors(device: DeviceInfo) -> dict[str, float | str]:
    """Read every sensor of a device once, keyed by name and unit."""
    return _read_nvml() if device.kind == "cuda" else _read_cpu()


def foreign_gpu_processes() -> int | str:
    """Count the processes on the GPU that is used which are not this one, or say why they cannot be counted."""
    try:
        running = ask(lambda nvml, gpu: nvml.nvmlDeviceGetComputeRunningProcesses(gpu))
    except Unanswered as reason:
        return str(reason)
    return sum(1 for process in running if process.pid != os.getpid())


class LoadWatch:
    """Tell how busy the host's cores were with anything but this process, from construction on."""

    def __init__(self) -> None:
        self._host_busy, self._host_total = _host_seconds()
        self._own = _own_seconds()

    def foreign_load(self) -> float:
        """Return the foreign busy share of all cores, 0 to 1."""
        host_busy, host_total = _host_seconds()
        foreign = (host_busy - self._host_busy) - (_own_seconds() - self._own)
        elapsed = host_total - self._host_total
        return min(1.0, max(0.0, foreign / elapsed)) if elapsed > 0 else 0.0


def _host_seconds() -> tuple[float, float]:
    times = psutil.cpu_times()._asdict()
    # Linux counts a guest's time within user time as well.
    total = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))
    return total - times["idle"] - times.get("iowait", 0.0), total


def _own_seconds() -> float:
    own = psutil.Process().cpu_times()
    return own.user + own.system


def _read_cpu() -> dict[str, float | str]:
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    sensors: dict[str, float | str] = {"cpu_clock_hz": frequency.current * 1e6 if frequency else NOT_SUPPORTED}
    for chip, entries in psutil.sensors_temperatures().items():
        for entry in entries:
            sensors[f"{chip}_{entry.label or 'temperature'}_celsius"] = entry.current
    return sensors


def _read_nvml() -> dict[str, float | str]:
    def read_all(nvml: Any, gpu: Any) -> dict[str, float | str]:
        readers: dict[str, Callable[[], Any]] = {
            "sm_clock_hz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM) * 1e6,
            "memory_clock_hz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM) * 1e6,
            "temperature_celsius": lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
            "power_watts": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) * 1e-3,
            "throttle_reasons_mask": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
        }
        return {name: _nvml_value(reader, nvml.NVMLError) for name, reader in readers.items()}

    try:
        sensors: dict[str, float | str] = ask(read_all)
    except Unanswered as reason:
        return {"nvml": str(reason)}
    return sensors


def _nvml_value(reader: Callable[[], Any], nvml_error: type[Exception]) -> float | str:
    try:
        return float(reader())
    except nvml_error as error:
        return str(error)
