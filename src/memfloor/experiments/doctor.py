"""What can run on this machine, and what is missing for the rest?"""

from dataclasses import dataclass

from memfloor.engine.cpu import native as cpu
from memfloor.hardware import match_driver_name
from memfloor.measure.energy_meters import open_meter
from memfloor.measure.environment import cpu_name, cuda_unavailable_reason, device_name
from memfloor.measure.nvml import Unanswered
from memfloor.runtimes import BACKENDS, REGISTRY


@dataclass(frozen=True, slots=True)
class Check:
    """Say whether one part can be used here.

    Attributes:
        summary: What the part does.
        reason: Why it cannot be used, with the install line; None if it can.
    """

    name: str
    summary: str
    reason: str | None


def examine() -> list[Check]:
    """Return every part of memfloor with what it needs here."""
    cuda_reason = cuda_unavailable_reason()
    parts = [
        Check("floor, report, query, paper", "need nothing but this package", None),
        Check("native kernels", f"read-only ceiling of {cpu_name()}", cpu.unavailable_reason()),
        Check("CUDA GPU", "" if cuda_reason else _gpu_summary(), cuda_reason),
        _energy("cpu"),
        *([] if cuda_reason else [_energy("cuda")]),
    ]
    runtimes = [
        Check(f"runtime {name}", runtime.summary, runtime.unavailable_reason()) for name, runtime in REGISTRY.items()
    ]
    attention = [
        Check(f"attention {name}", backend.summary, backend.unavailable_reason()) for name, backend in BACKENDS.items()
    ]
    return parts + runtimes + attention


def _energy(device: str) -> Check:
    try:
        sensor = open_meter(device).sensor
    except Unanswered as reason:
        return Check(f"energy, {device}", "", str(reason))
    return Check(f"energy, {device}", f"{sensor.name}, of {sensor.covers}", None)


def _gpu_summary() -> str:
    name = device_name("cuda")
    catalogued = match_driver_name(name)
    return f"{name}, {'peak known' if catalogued else 'not in the catalogue: fractions of the measured ceiling only'}"
