"""The streaming read on a GPU: a persistent grid of wide loads, several blocks in flight."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl


@dataclass(frozen=True, slots=True)
class StreamShape:
    """Choose how the read is spread: programs per multiprocessor, elements per block, warps, blocks in flight."""

    programs_per_sm: int = 4
    block: int = 4096
    warps: int = 8
    stages: int = 4


@triton.jit
def _read_kernel(source, partials, blocks, BLOCK: tl.constexpr, STAGES: tl.constexpr):  # noqa: ANN001, ANN202, N803
    program = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.int32)
    for index in tl.range(program, blocks, tl.num_programs(0), num_stages=STAGES):
        total += tl.load(source + index.to(tl.int64) * BLOCK + offsets, eviction_policy="evict_first")
    tl.store(partials + program, tl.sum(total))


def read(source: torch.Tensor, partials: torch.Tensor, shape: StreamShape) -> None:
    """Enqueue one pass over the buffer.

    Args:
        source: int32, contiguous, a whole number of blocks.
        partials: int32 [programs], written with each program's sum so that no load can be dropped.
        shape: How the read is spread.
    """
    blocks = source.numel() // shape.block
    _read_kernel[(partials.numel(),)](
        source, partials, blocks, BLOCK=shape.block, STAGES=shape.stages, num_warps=shape.warps
    )
