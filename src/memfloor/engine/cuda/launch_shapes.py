"""How each kernel is cut into programs: plain numbers, by default those of `default_shapes`, or those of a tuner."""

from dataclasses import dataclass, field, replace
from typing import Any

from memfloor.floor import projections
from memfloor.spec import ModelSpec, weight_format

# What a lane loads at a time, and the lanes of a warp.
LOAD_BITS, WARP_LANES = 128, 32


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

    def fitted(self, rows: int) -> "RowShape":
        """Return the shape that runs where a program may hold at most so many rows."""
        return replace(self, block_n=min(self.block_n, rows))


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

    def fitted(self, columns: int) -> "ProjectionShape":
        """Return the shape that runs over rows of `columns` numbers, with no more blocks of K than they fill."""
        steps = min(self.steps, -(-columns // self.block_k))
        return replace(self, steps=steps, ahead=min(self.ahead, steps))


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

    def splits(self, max_len: int, window: int = 0) -> int:
        """Return the programs per KV head for a cache of `max_len` slots, of which a token sees `window`; 0 is all."""
        # A window that begins within a block reaches into one block more.
        seen = min(max_len, window - 1 + self.block_s) if window else max_len
        return min(self.max_splits, -(-seen // self.block_s))


@dataclass(frozen=True, slots=True)
class LaunchShapes:
    """Hold the launch shape of every kernel of a step, and say whether they are the default or when they were tuned."""

    qkv: RowShape
    attention: AttentionShape
    o_proj: ProjectionShape
    gate_up: RowShape
    down_proj: ProjectionShape
    head: RowShape
    origin: str = field(default="default", compare=False)

    def shared(self, spec: ModelSpec, weights: str, head: str) -> "LaunchShapes":
        """Return the shapes with no more warps than can share a row in the formats of weights and head.

        Rows become fewer with the warps, so that a lane holds as much.
        """
        row = next_power_of_two(spec.hidden_size)

        def share(shape: Any, form: str, block_k: int) -> Any:
            warps = min(shape.warps, most_warps(form, block_k))
            return replace(shape, warps=warps, block_n=max(1, shape.block_n * warps // shape.warps))

        return replace(
            self,
            qkv=share(self.qkv, weights, row),
            gate_up=share(self.gate_up, weights, row),
            head=share(self.head, head, row),
            o_proj=share(self.o_proj, weights, self.o_proj.block_k),
            down_proj=share(self.down_proj, weights, self.down_proj.block_k),
        )

    def fitted(self, spec: ModelSpec) -> "LaunchShapes":
        """Return the shapes that run for a model: nothing in them is cut short any more."""
        columns = projections(spec)
        return replace(
            self,
            qkv=self.qkv.fitted(spec.head_dim // 2),
            o_proj=self.o_proj.fitted(columns["o_proj"][1]),
            down_proj=self.down_proj.fitted(columns["down_proj"][1]),
        )


def most_warps(form: str, block_k: int) -> int:
    """Return the warps among which a block of K numbers can be shared, so that each lane has a load of every row.

    Where packed integers have fewer loads than lanes Triton 3.6 pairs weights with the wrong activations, as an H200
    showed; 0 says that a block is too short for one warp.
    """
    bits = weight_format(form).bits
    return 16 if bits == 16 else block_k * bits // (LOAD_BITS * WARP_LANES)


def next_power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below a positive number."""
    return 1 << (number - 1).bit_length()
