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

    The buffer is NUM_BLOCKS groups of UNROLL blocks; each program takes every PROGRAMS-th group, so that all of
    them together sweep the buffer once.
    """
    program = tl.program_id(0)
    offsets = tl.arange(0, UNROLL)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    total = tl.zeros((UNROLL, BLOCK), dtype=tl.int32)
    group_ptr = source_ptr + program.to(tl.int64) * (UNROLL * BLOCK)
    for _ in range(program, NUM_BLOCKS, PROGRAMS):
        total += tl.load(group_ptr + offsets, eviction_policy="evict_first")
        group_ptr += PROGRAMS * UNROLL * BLOCK
    tl.store(partial_ptr + program, tl.sum(tl.reshape(total, (UNROLL * BLOCK,)), axis=0))
