"""Final RMS norm, logits, and the best logit of every program."""

import triton
import triton.language as tl

from memfloor.engine.kernels.dependency import release_dependents, wait_after_constants, wait_before_constants
from memfloor.engine.kernels.rows import (
    lane_products,
    load_rows,
    load_sums,
    load_vector,
    norm_scale,
)


@triton.jit
def head_kernel(
    x_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    w_ptr: tl.tensor,
    logits_ptr: tl.tensor,
    best_value_ptr: tl.tensor,
    best_token_ptr: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    EPS: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Write logits [N] = W [N, K] x [K] / rms, float32, and each program's best logit and token [programs].

    Each program takes BLOCK_N rows; of equal logits the lowest token wins. x is the residual stream times the final
    norm's weight.
    """
    tile = tl.program_id(0)
    release_dependents(PDL)
    wait_before_constants(PDL)
    w = load_rows(w_ptr, tile * BLOCK_N, 0, N, K, BLOCK_N, BLOCK_K)
    wait_after_constants(PDL)
    x = load_vector(x_ptr, 0, K, BLOCK_K)
    sums = load_sums(sums_ptr, NUM_SUMS, BLOCK_SUMS)
    logits = tl.sum(lane_products(w, x, BLOCK_N, BLOCK_K), axis=1)
    # Last, so that the products do not wait for the norm.
    logits *= norm_scale(sums, K, EPS)
    rows = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    tl.store(logits_ptr + rows, logits, mask=rows < N)
    logits = tl.where(rows < N, logits, float("-inf"))
    top = tl.max(logits, axis=0)
    tl.store(best_value_ptr + tile, top)
    tl.store(best_token_ptr + tile, tl.min(tl.where(logits == top, rows, N), axis=0))
