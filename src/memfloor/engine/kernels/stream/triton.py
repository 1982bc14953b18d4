"""Read a buffer once with 16-byte loads, several in flight, and write one number per program."""

import triton
import triton.language as tl


@triton.jit
def stream_kernel(
    source_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    NUM_BLOCKS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
) -> None:
    """Add up int32 numbers [NUM_BLOCKS * UNROLL * BLOCK], modulo 2**32, into partial sums [PROGRAMS].

    Each program takes every PROGRAMS-th group of UNROLL blocks, so all of them together sweep the buffer once.
    """
    program = tl.program_id(0)
    offsets = tl.arange(0, UNROLL)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    total = tl.zeros((UNROLL, BLOCK), dtype=tl.int32)
    for block in range(program, NUM_BLOCKS, PROGRAMS):
        start = source_ptr + block.to(tl.int64) * (UNROLL * BLOCK)
        total += tl.load(start + offsets, eviction_policy="evict_first")
    tl.store(partial_ptr + program, tl.sum(tl.reshape(total, (UNROLL * BLOCK,)), axis=0))
