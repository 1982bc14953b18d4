"""Whether a model fits before it is loaded, so that too small a device is an answer and not a crash."""

import sys
from pathlib import Path

from memfloor.floor import step_traffic
from memfloor.record import Cell
from memfloor.units import format_bytes

# Beside weights and cache a step needs its activations, the framework and the ceiling's own buffer, which on a GPU is
# a sixteenth of its memory and 4 GiB at most.
RESERVE_BYTES = 1.5e9
CEILING_SHARE, CEILING_BYTES = 16, 4 * 2**30


def required_bytes(cell: Cell) -> int:
    """Return the bytes that weights and KV cache take, without the framework's own."""
    return step_traffic(cell.spec, cell.workload, "paper").total_bytes


def require_memory(cell: Cell) -> None:
    """Refuse a model that cannot fit on the cell's device.

    Raises:
        MemoryError: Weights, cache and reserve are larger than what is free, with both sizes.
    """
    require_bytes(cell, required_bytes(cell), "weights and KV cache")


def require_bytes(cell: Cell, need: int, what: str) -> None:
    """Refuse to allocate bytes that cannot fit on the cell's device.

    Raises:
        MemoryError: They and the reserve are larger than what is free, with both sizes.
    """
    reserve, free = reserve_bytes(cell.device), free_bytes(cell.device)
    if need + reserve > free:
        raise MemoryError(
            f"{cell.spec.name} needs {format_bytes(need)} for {what} and {format_bytes(reserve)} "
            f"beside them; {format_bytes(free)} is free on this {cell.device} device{_of_total(cell.device)}"
        )


def reserve_bytes(device: str) -> float:
    """Return the memory that must stay free beside weights and cache on a device kind, `cpu` or `cuda`."""
    if device == "cpu":
        return RESERVE_BYTES
    import torch

    return RESERVE_BYTES + min(CEILING_BYTES, torch.cuda.mem_get_info()[1] // CEILING_SHARE)


def free_bytes(device: str) -> int:
    """Return the memory that is free on a device kind, `cpu` or `cuda`; a container's limit counts."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    import psutil

    return min(int(psutil.virtual_memory().available), _left_in_container())


def _of_total(device: str) -> str:
    # A GPU that is too small and one that others fill call for different remedies.
    if device == "cpu":
        return ""
    import torch

    return f", of {format_bytes(torch.cuda.mem_get_info()[1])} that it has"


def _left_in_container(folder: Path = Path("/sys/fs/cgroup")) -> int:
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return sys.maxsize
    return sys.maxsize if limit == "max" else max(0, int(limit) - int(used))
