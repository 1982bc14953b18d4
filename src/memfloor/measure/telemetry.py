"""Clocks, temperatures, power and foreign load around a run; a silent sensor is recorded in its own words."""

import os
from collections.abc import Callable
from typing import Any

import psutil

from memfloor.record import DeviceInfo

NOT_SUPPORTED = "not supported"


def read_sensors(device: DeviceInfo) -> dict[str, float | str]:
    """Read every sensor of a device once, keyed by name and unit."""
    return _read_nvml() if device.kind == "cuda" else _read_cpu()


def foreign_gpu_processes() -> int | str:
    """Count the processes on GPU 0 that are not this one, or say why they cannot be counted."""
    try:
        import pynvml
    except ImportError:
        return "nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError as error:
        return str(error)
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
    try:
        import pynvml
    except ImportError:
        return {"nvml": "nvidia-ml-py is not installed"}
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError as error:
        return {"nvml": str(error)}
    readers: dict[str, Callable[[], Any]] = {
        "sm_clock_hz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) * 1e6,
        "memory_clock_hz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM) * 1e6,
        "temperature_celsius": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "power_watts": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) * 1e-3,
        "throttle_reasons_mask": lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
    }
    return {name: _nvml_value(reader, pynvml.NVMLError) for name, reader in readers.items()}


def _nvml_value(reader: Callable[[], Any], nvml_error: type[Exception]) -> float | str:
    try:
        return float(reader())
    except nvml_error as error:
        return str(error)
