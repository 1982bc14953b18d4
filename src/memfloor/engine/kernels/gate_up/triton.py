"""RMS norm, gate and up projections, and SiLU(gate) * up, as one matrix-vector product."""

import triton
import triton.language as tl

from memfloor.engine.kernels.dependency import release_dependents, wait_after_constants, wait_before_constants
from memfloor.engine.kernels.rows import load_pair, pair_product


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
    pair = load_pair(w_ptr, tile * BLOCK_N, N, 2 * N, K, FORMAT, BLOCK_N, BLOCK_K)
    wait_after_constants(PDL)
    gate, up = pair_product(pair, x_ptr, sums_ptr, K, EPS, NUM_SUMS, BLOCK_SUMS, FORMAT, BLOCK_N, BLOCK_K)
    rows = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    out = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + rows, out.to(out_ptr.dtype.element_ty), mask=rows < N)
