"""RMS norm and the fused Q, K and V projections as one matrix-vector product."""

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
def qkv_kernel(
    x_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    w_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    out_ptr: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    EPS: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Write out [N] = W [N, K] x [K] / rms + bias [N], float32.

    x is the residual stream times the norm's weight; 1 / rms is applied after the product, so the weights
    never wait for it. Each program takes BLOCK_N rows.
    """
    tile = tl.program_id(0)
    release_dependents(PDL)
    wait_before_constants(PDL)
    w = load_rows(w_ptr, tile * BLOCK_N, 0, N, K, BLOCK_N, BLOCK_K)
    wait_after_constants(PDL)
    x = load_vector(x_ptr, 0, K, BLOCK_K)
    sums = load_sums(sums_ptr, NUM_SUMS, BLOCK_SUMS)
    out = tl.sum(lane_products(w, x, BLOCK_N, BLOCK_K), axis=1)
    # Last, so that the products do not wait for the norm.
    out *= norm_scale(sums, K, EPS)
    rows = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    if HAS_BIAS:
        out += tl.load(bias_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
    tl.store(out_ptr + rows, out, mask=rows < N)
