"""RMS norm, gate and up projections, and SiLU(gate) * up, as one matrix-vector product."""

import triton
import triton.language as tl

from memfloor.engine.kernels.dependency import release_dependents, wait_after_constants, wait_before_constants
from memfloor.engine.kernels.packed import load_packed, packed_products, sum_packed
from memfloor.engine.kernels.rows import lane_products, load_rows, load_scales, load_sums, load_vector, norm_scale


@triton.jit
def gate_up_kernel(
    x_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    w_ptr: tl.tensor,
    out_ptr: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    EPS: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
    FORMAT: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Write out [N] = SiLU(gate) * up, bf16, with gate and up = W [2, N, K] x [K] / rms.

    A program owns the same BLOCK_N rows of both halves, so the product needs no other program. x is the
    residual stream times the norm's weight.
    """
    tile = tl.program_id(0)
    release_dependents(PDL)
    wait_before_constants(PDL)
    if FORMAT == "bf16":
        up_ptr = w_ptr + N * K
        gate_w = load_rows(w_ptr, tile * BLOCK_N, 0, N, K, BLOCK_N, BLOCK_K)
        up_w = load_rows(up_ptr, tile * BLOCK_N, 0, N, K, BLOCK_N, BLOCK_K)
        wait_after_constants(PDL)
        x = load_vector(x_ptr, 0, K, BLOCK_K)
        # First: done after the products, its load would start only then.
        scale = norm_scale(load_sums(sums_ptr, NUM_SUMS, BLOCK_SUMS), K, EPS)
        gate = tl.sum(lane_products(gate_w, x, BLOCK_N, BLOCK_K), axis=1) * scale
        up = tl.sum(lane_products(up_w, x, BLOCK_N, BLOCK_K), axis=1) * scale
    else:
        words, group_scales = load_packed(w_ptr, tile * BLOCK_N, 0, 2, N, K, FORMAT, DOT, BLOCK_N, BLOCK_K)
        row_scales = load_scales(w_ptr, tile * BLOCK_N, 2, N, K, FORMAT, BLOCK_N)
        wait_after_constants(PDL)
        sums = load_sums(sums_ptr, NUM_SUMS, BLOCK_SUMS)
        products = packed_products(words, group_scales, x_ptr, 0, K, FORMAT, DOT)
        both = sum_packed(products, DOT) * (row_scales * norm_scale(sums, K, EPS))
        gate, up = tl.split(tl.permute(tl.reshape(both, (2, BLOCK_N)), (1, 0)))
    rows = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    out = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + rows, out.to(out_ptr.dtype.element_ty), mask=rows < N)
