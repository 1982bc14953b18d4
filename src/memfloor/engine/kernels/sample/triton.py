"""Take the greedy token, log it, move on by one position and write the token's embedding."""

import triton
import triton.language as tl

from memfloor.engine.kernels.dependency import release_dependents, wait_for_previous
from memfloor.engine.kernels.embed.triton import write_embedding


@triton.jit
def sample_kernel(
    best_value_ptr: tl.tensor,
    best_token_ptr: tl.tensor,
    token_ptr: tl.tensor,
    position_ptr: tl.tensor,
    ring_ptr: tl.tensor,
    table_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    normed_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    rope_row_ptr: tl.tensor,
    V: tl.constexpr,
    NUM_BEST: tl.constexpr,
    CHUNK: tl.constexpr,
    RING: tl.constexpr,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
    D: tl.constexpr,
    MAX_LEN: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Write the token of the greatest of NUM_BEST values, the lowest of equals; one program.

    The token goes to `token`, to ring[position % RING] and, as its embedding, to the residual stream; position
    grows by one. Dependents are released after the wait: whatever starts the next step may then rely on
    everything the heads and layers of this one wrote.
    """
    wait_for_previous(PDL)
    release_dependents(PDL)
    value = tl.full((CHUNK,), float("-inf"), dtype=tl.float32)
    candidate = tl.full((CHUNK,), V, dtype=tl.int32)
    # The loads of all chunks are independent, so they are in flight together.
    for first in tl.static_range(0, NUM_BEST, CHUNK):
        index = first + tl.arange(0, CHUNK)
        next_value = tl.load(best_value_ptr + index, mask=index < NUM_BEST, other=float("-inf"))
        next_candidate = tl.load(best_token_ptr + index, mask=index < NUM_BEST, other=V)
        better = (next_value > value) | ((next_value == value) & (next_candidate < candidate))
        value = tl.where(better, next_value, value)
        candidate = tl.where(better, next_candidate, candidate)
    # A model whose logits are all NaN still yields a token inside the vocabulary.
    token = tl.minimum(tl.min(tl.where(value == tl.max(value, axis=0), candidate, V), axis=0), V - 1)
    position = tl.load(position_ptr)
    # All lanes must have read the position before one of them replaces it.
    tl.debug_barrier()
    tl.store(token_ptr, token)
    tl.store(ring_ptr + position % RING, token)
    tl.store(position_ptr, position + 1)
    write_embedding(
        token,
        position + 1,
        table_ptr,
        norm_weight_ptr,
        cos_ptr,
        sin_ptr,
        residual_ptr,
        normed_ptr,
        sums_ptr,
        rope_row_ptr,
        E,
        BLOCK_E,
        NUM_SUMS,
        BLOCK_SUMS,
        D,
        MAX_LEN,
    )
