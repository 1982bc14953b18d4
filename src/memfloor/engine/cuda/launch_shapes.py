"""How each kernel is cut into programs: plain numbers, chosen here from the device and overridden by a tuner."""

from dataclasses import dataclass, replace
from typing import Any

from memfloor.errors import UsageError
from memfloor.spec import weight_format


@dataclass(frozen=True, slots=True)
class StreamShape:
    """Cut the streaming read over a buffer of int32 numbers.

    Attributes:
        block: Numbers per block.
        unroll: Blocks in flight per program.
        warps: Warps per program.
        programs_per_sm: Programs per multiprocessor that loop over the buffer; None gives each block its own program.
    """

    block: int
    unroll: int
    warps: int
    programs_per_sm: int | None = None

    def programs(self, numbers: int, sm_count: int) -> int:
        """Return the number of programs for a buffer."""
        groups = numbers // (self.block * self.unroll)
        return groups if self.programs_per_sm is None else self.programs_per_sm * sm_count


@dataclass(frozen=True, slots=True)
class RowShape:
    """Cut a matrix-vector product over whole rows: qkv, gate_up and head.

    Attributes:
        block_n: Rows of a program; of gate and of up each in gate_up, of each half of a head in qkv.
        warps: Warps per program.
        registers: Registers per lane at most; None leaves them to the compiler.
    """

    block_n: int
    warps: int
    registers: int | None = None

    def programs(self, rows: int) -> int:
        """Return the number of programs for a number of rows."""
        return -(-rows // self.block_n)


@dataclass(frozen=True, slots=True)
class ProjectionShape:
    """Cut a matrix-vector product over rows and over K: the O and down projections.

    Attributes:
        block_n: Rows per program.
        block_k: Numbers of K a program holds at a time.
        steps: Blocks of K a program takes.
        warps: Warps per program.
        registers: Registers per lane at most; None leaves them to the compiler.
        ahead: Blocks of K loaded before the wait for the kernel before; no more than there are.
    """

    block_n: int
    block_k: int
    steps: int
    warps: int
    registers: int | None = None
    ahead: int = 1

    def splits(self, columns: int) -> int:
        """Return how many programs share a row of `columns` numbers."""
        return -(-columns // (self.block_k * self.steps))


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Cut attention over KV slots.

    Attributes:
        block_s: Slots a program holds at a time.
        max_splits: Programs per KV head at most.
        warps: Warps per program.
    """

    block_s: int
    max_splits: int
    warps: int

    def splits(self, max_len: int) -> int:
        """Return the programs per KV head for a cache of `max_len` slots."""
        return min(self.max_splits, -(-max_len // self.block_s))


@dataclass(frozen=True, slots=True)
class LaunchShapes:
    """Hold the launch shape of every kernel of a step."""

    qkv: RowShape
    attention: AttentionShape
    o_proj: ProjectionShape
    gate_up: RowShape
    down_proj: ProjectionShape
    head: RowShape


def default_shapes(
    hidden_size: int, kv_heads: int, sm_count: int, weights: str = "bf16", head: str = "bf16"
) -> LaunchShapes:
    """Return the shapes that were fastest for Qwen-2.5-7B on an H200, scaled to other rows.

    Args:
        hidden_size: E; the shorter the rows, the more of them a program holds.
        kv_heads: Hkv.
        sm_count: Multiprocessors of the device.
        weights: Format of the attention and MLP weights.
        head: Format of the output head.

    Raises:
        UsageError: A row is too long to be held by one program.
    """
    if hidden_size > 16384:
        raise UsageError(f"hidden_size {hidden_size} is beyond the engine's 16384")
    scale = max(1, 4096 // next_power_of_two(hidden_size))
    row = next_power_of_two(hidden_size)
    shapes = LaunchShapes(
        qkv=RowShape(block_n=scale, warps=4),
        attention=AttentionShape(block_s=64, max_splits=max(1, 2 * sm_count // kv_heads), warps=4),
        o_proj=ProjectionShape(block_n=4, block_k=min(row, 1024), steps=4, warps=4),
        gate_up=RowShape(block_n=2 * scale, warps=4),
        down_proj=ProjectionShape(block_n=2 * min(scale, 2), block_k=2048, steps=10, warps=8, registers=128, ahead=5),
        head=RowShape(block_n=8 * scale, warps=4),
    )
    if weights != "bf16":
        shapes = replace(shapes, **_quantized_shapes(weights, scale, row))
    return shapes if head == "bf16" else replace(shapes, head=_quantized_head(head, scale))


def _quantized_shapes(weights: str, scale: int, row: int) -> dict[str, Any]:
    if weight_format(weights).bits == 8:
        return {
            "qkv": RowShape(block_n=4 * scale, warps=4),
            "o_proj": ProjectionShape(block_n=16, block_k=2048, steps=2, warps=4),
            "gate_up": RowShape(block_n=4 * scale, warps=4),
            "down_proj": ProjectionShape(block_n=16, block_k=2048, steps=1, warps=4),
        }
    return {
        "qkv": RowShape(block_n=8 * scale, warps=4),
        "o_proj": ProjectionShape(block_n=8, block_k=min(row, 4096), steps=1, warps=2),
        "gate_up": RowShape(block_n=8 * scale, warps=4),
        "down_proj": ProjectionShape(block_n=16, block_k=4096, steps=1, warps=4),
    }


def _quantized_head(head: str, scale: int) -> RowShape:
    wide = weight_format(head).bits == 8
    return RowShape(block_n=16 * scale, warps=8 if wide else 4)


def next_power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()
