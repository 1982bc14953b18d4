"""RMS norm and the fused Q, K and V projections as one matrix-vector product."""

import triton
import triton.language as tl

from memfloor.engine.kernels.rows import normed_product


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
    FORMAT: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    LANES: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Write out [N] = W [N, K] x [K] / rms + bias [N], float32.

    x is the residual stream times the norm's weight; 1 / rms is applied after the product, so the weights
    never wait for it. Each program takes BLOCK_N rows.
    """
    tile = tl.program_id(0)
    out = normed_product(
        x_ptr,
        sums_ptr,
        w_ptr,
        N,
        K,
        EPS,
        NUM_SUMS,
        BLOCK_SUMS,
        FORMAT,
        DOT,
        BLOCK_N,
        BLOCK_K,
        LANES,
        PDL,
    )
    rows = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    if HAS_BIAS:
        out += tl.load(bias_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
    tl.store(out_ptr + rows, out, mask=rows < N)
