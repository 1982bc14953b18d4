"""What can this device's memory deliver? Reads of several sizes, copy, triad, and what the machine says of itself."""

from statistics import median

import psutil
from pydantic import BaseModel, ConfigDict

from memfloor.engine.cpu.native import allowed_cpus
from memfloor.errors import UsageError
from memfloor.measure.ceiling import CpuCeiling, CudaCeiling
from memfloor.measure.environment import cpu_caches, default_device, device_info, huge_pages, numa_nodes
from memfloor.measure.telemetry import read_sensors
from memfloor.record import CeilingReading, DeviceInfo
from memfloor.units import format_bytes

PASSES = 4
MEBI = 2**20
CPU_SIZES = (64 * MEBI, 256 * MEBI, 512 * MEBI, 1024 * MEBI)
CUDA_SIZES = (256 * MEBI, 1024 * MEBI, 4096 * MEBI)


class Bandwidth(BaseModel):
    """Hold the spread of one kind of pass over one buffer size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    buffer_bytes: int
    median_bytes_per_second: float
    lowest_bytes_per_second: float
    highest_bytes_per_second: float


class ProbeResult(BaseModel):
    """Hold everything a probe found out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: DeviceInfo
    method: str
    read_bytes_per_second: float
    bandwidths: list[Bandwidth]
    facts: dict[str, str]


def take_probe(device: str | None, threads: int | None, repeats: int) -> ProbeResult:
    """Probe a device kind, `cpu` or `cuda`; None takes the GPU where there is one.

    The headline `read_bytes_per_second` is the median over the largest buffer.

    Raises:
        UsageError: No such device, no native kernels, or `repeats` below one.
    """
    if repeats < 1:
        raise UsageError(f"repeats must be 1 or more, not {repeats}")
    kind = device or default_device()
    if kind not in ("cpu", "cuda"):
        raise UsageError.unknown("device kind", kind, ("cpu", "cuda"))
    info = device_info(kind)
    bandwidths: list[Bandwidth] = []
    method = ""
    for size in CUDA_SIZES if kind == "cuda" else CPU_SIZES:
        ceiling = CudaCeiling(size) if kind == "cuda" else CpuCeiling(allowed_cpus(threads), size)
        method = ceiling.method
        ceiling.read(PASSES)
        bandwidths.append(_spread("read", size, [ceiling.read(PASSES) for _ in range(repeats)]))
    bandwidths.append(_spread("copy", size, [ceiling.copy(PASSES) for _ in range(repeats)]))
    bandwidths.append(_spread("triad", size, [ceiling.triad(PASSES) for _ in range(repeats)]))
    headline = next(item for item in reversed(bandwidths) if item.kind == "read")
    return ProbeResult(
        device=info,
        method=method,
        read_bytes_per_second=headline.median_bytes_per_second,
        bandwidths=bandwidths,
        facts=_facts(info),
    )


def _spread(kind: str, size: int, readings: list[CeilingReading]) -> Bandwidth:
    rates = [reading.pass_bytes / seconds for reading in readings for seconds in reading.pass_seconds]
    return Bandwidth(
        kind=kind,
        buffer_bytes=size,
        median_bytes_per_second=median(rates),
        lowest_bytes_per_second=min(rates),
        highest_bytes_per_second=max(rates),
    )


def _caches(info: DeviceInfo) -> str:
    if info.kind == "cuda":
        return f"L2 {format_bytes(info.last_level_cache_bytes or 0)}"
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in cpu_caches().items()) or "not reported"


def _facts(info: DeviceInfo) -> dict[str, str]:
    sensors = {
        name.replace("_", " "): f"{value:g}" if isinstance(value, float) else value
        for name, value in read_sensors(info).items()
    }
    return {
        "caches": _caches(info),
        "memory": format_bytes(info.memory_bytes),
        "cores or multiprocessors in use": str(info.cores),
        "host cores": f"{psutil.cpu_count(logical=False)} physical, {psutil.cpu_count()} logical",
        "NUMA nodes": str(numa_nodes()),
        "transparent huge pages": huge_pages(),
        **sensors,
    }
