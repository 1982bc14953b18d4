"""The streaming read on a GPU: a persistent grid of wide loads, several blocks in flight."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@dataclass(frozen=True, slots=True)
class StreamShape:
    """Choose how the read is spread.

    Attributes:
        programs_per_sm: Programs of a persistent grid per multiprocessor; None gives each block its own program.
        block: Elements of one block.
        warps: Warps of one program.
    """

    programs_per_sm: int | None = None
    block: int = 8192
    warps: int = 8

    def programs(self, elements: int, multiprocessors: int) -> int:
        """Return the size of the grid for a buffer and a device."""
        return elements // self.block if self.programs_per_sm is None else self.programs_per_sm * multiprocessors


@triton.jit
def _read_kernel(source, partials, blocks, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.int32)
    for index in tl.range(program, blocks, tl.num_programs(0)):
        total ^= tl.load(source + index * BLOCK + offsets, eviction_policy="evict_first")
    tl.store(partials + program, tl.xor_sum(total))


def read(source: torch.Tensor, partials: torch.Tensor, shape: StreamShape) -> None:
    """Enqueue one pass over the buffer.

    Args:
        source: int32, contiguous, a whole number of blocks, fewer than 2**31 elements.
        partials: int32 [programs], written with the exclusive or of what each program read: no load can be dropped.
        shape: How the read is spread.
    """
    blocks = source.numel() // shape.block
    _read_kernel[(partials.numel(),)](source, partials, blocks, BLOCK=shape.block, num_warps=shape.warps)
