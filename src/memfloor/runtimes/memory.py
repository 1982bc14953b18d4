"""Whether a model fits before it is loaded, so that too small a device is an answer and not a crash."""

from memfloor.floor import step_traffic
from memfloor.record import Cell
from memfloor.units import format_bytes

# Beside weights and cache a step needs its activations, the framework and the ceiling's own buffer.
RESERVE_BYTES = 1.5e9


def required_bytes(cell: Cell) -> int:
    """Return the bytes that weights and KV cache take, without the framework's own."""
    return step_traffic(cell.spec, cell.workload, "paper").total_bytes


def require_memory(cell: Cell) -> None:
    """Refuse a model that cannot fit on the cell's device.

    Raises:
        MemoryError: Weights, cache and reserve are larger than what is free, with both sizes.
    """
    need, free = required_bytes(cell), free_bytes(cell.device)
    if need + RESERVE_BYTES > free:
        raise MemoryError(
            f"{cell.spec.name} needs {format_bytes(need)} for weights and KV cache and {format_bytes(RESERVE_BYTES)} "
            f"beside them; {format_bytes(free)} is free on this {cell.device} device"
        )


def free_bytes(device: str) -> int:
    """Return the memory that is free on a device kind, `cpu` or `cuda`."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    import psutil

    return int(psutil.virtual_memory().available)
