"""Where a run is taken: device, host, versions and commit."""

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from memfloor.engine.cpu.native import allowed_cpus
from memfloor.errors import UsageError
from memfloor.measure.nvml import NotInstalled, Unanswered, ask
from memfloor.record import DeviceInfo

_SIZE_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
RECORDED_PACKAGES = (
    *("memfloor", "torch", "transformers", "triton", "numpy", "safetensors"),
    *("flash-attn", "flashinfer-python", "vllm"),
)


def cuda_unavailable_reason() -> str | None:
    """Say why no CUDA GPU can be used here; None if one can."""
    try:
        import torch
    except ImportError:
        return "torch is not installed; pip install 'memfloor[torch]'"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA GPU"
    return None


def default_device() -> str:
    """Return `cuda` where a GPU can be used, else `cpu`."""
    return "cpu" if cuda_unavailable_reason() else "cuda"


def device_info(kind: str) -> DeviceInfo:
    """Describe this machine's device of a kind, `cpu` or `cuda`.

    Raises:
        UsageError: There is no such device here.
    """
    return _cuda_info() if kind == "cuda" else _cpu_info()


def device_name(kind: str) -> str:
    """Return the name of this machine's device of a kind, `cpu` or `cuda`, without waking the device.

    A CUDA context in the parent would hold memory beside every child it measures.
    """
    if kind == "cpu":
        return cpu_name()
    try:
        return str(ask(lambda nvml, gpu: nvml.nvmlDeviceGetName(gpu)))
    except NotInstalled as reason:
        raise UsageError(f"{reason}; pip install 'memfloor[torch]'") from reason
    except Unanswered as reason:
        raise UsageError(f"no NVIDIA GPU answers: {reason}") from reason


def last_level_cache_bytes() -> int | None:
    """Return the size of the CPU's largest cache that Linux reports, or None where it reports none."""
    return max(cpu_caches().values(), default=None)


def cpu_caches() -> dict[str, int]:
    """Return the bytes of each data cache of the first core by its level, such as L2; empty if none is reported."""
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction" and size[-1:] in _SIZE_UNITS:
            caches[f"L{level}"] = int(size[:-1]) * _SIZE_UNITS[size[-1]]
    return caches


def cpu_name() -> str:
    """Return the processor's own name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.lower().startswith(("model name", "hardware")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def huge_pages() -> str:
    """Return the kernel's policy for transparent huge pages: always, madvise, never or unknown."""
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not path.is_file():
        return "unknown"
    return path.read_text().partition("[")[2].partition("]")[0] or "unknown"


def numa_nodes() -> int:
    """Return the number of NUMA nodes, 1 where Linux reports none."""
    return len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide a measurement; an absent one is left out."""
    found = {}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def git_commit() -> str | None:
    """Return the commit memfloor runs from, with `+changes` if the tree differs from it; None where it is unknown.

    A tree that travels without its history may name its commit in `memfloor/COMMIT`.
    """
    folder = Path(__file__).resolve().parent
    stamp = folder.parent / "COMMIT"
    if stamp.is_file():
        return stamp.read_text().strip()
    git = ["git", "-C", str(folder)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=False)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    if head.returncode or tracked.returncode:
        # An installed copy that lies inside somebody else's checkout.
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def _cpu_info() -> DeviceInfo:
    return DeviceInfo(
        kind="cpu",
        name=cpu_name(),
        memory_bytes=psutil.virtual_memory().total,
        last_level_cache_bytes=last_level_cache_bytes(),
        cores=len(allowed_cpus()),
    )


def _cuda_info() -> DeviceInfo:
    reason = cuda_unavailable_reason()
    if reason is not None:
        raise UsageError(reason)
    import torch

    properties = torch.cuda.get_device_properties(0)
    return DeviceInfo(
        kind="cuda",
        name=properties.name,
        memory_bytes=properties.total_memory,
        last_level_cache_bytes=properties.L2_cache_size,
        cores=properties.multi_processor_count,
        driver_version=_driver_version(),
        compute_capability=f"{properties.major}.{properties.minor}",
    )


def _driver_version() -> str | None:
    try:
        return str(ask(lambda nvml, gpu: nvml.nvmlSystemGetDriverVersion()))
    except Unanswered:
        return None
