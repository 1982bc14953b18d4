"""RMS norm, gate and up projections, and SiLU(gate) * up, as one matrix-vector product."""

import triton
import triton.language as tl

from memfloor.engine.kernels.dependency import release_dependents, wait_after_constants, wait_before_constants
from memfloor.engine.kernels.rows import (
    lane_products,
    load_rows,
    load_sums,
    load_vector,
    norm_scale,
    prefetch_rows,
)


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
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PROGRAMS: tl.constexpr,
    PREFETCH: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Write out [N] = SiLU(gate) * up, bf16, with gate and up = W [2, N, K] x [K] / rms.

    A program owns the same BLOCK_N rows of both halves, so the product needs no other program. x is the
    residual stream times the norm's weight. Each program takes every PROGRAMS-th tile; the first PREFETCH programs
    bring the tiles of the next PREFETCH into L2 while they wait.
    """
    tile = tl.program_id(0)
    release_dependents(PDL)
    wait_before_constants(PDL)
    up_ptr = w_ptr + N * K
    gate_w = load_rows(w_ptr, tile * BLOCK_N, 0, N, K, BLOCK_N, BLOCK_K)
    up_w = load_rows(up_ptr, tile * BLOCK_N, 0, N, K, BLOCK_N, BLOCK_K)
    if PDL == 2 and tile < PREFETCH:
        prefetch_rows(w_ptr, (tile + PREFETCH) * BLOCK_N, 0, N, K, BLOCK_N, BLOCK_K)
        prefetch_rows(up_ptr, (tile + PREFETCH) * BLOCK_N, 0, N, K, BLOCK_N, BLOCK_K)
    wait_after_constants(PDL)
    x = load_vector(x_ptr, 0, K, BLOCK_K)
    # First: done after the products, its load would start only then.
    scale = norm_scale(load_sums(sums_ptr, NUM_SUMS, BLOCK_SUMS), K, EPS)
    NUM_TILES: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    if PROGRAMS == NUM_TILES:
        gate = tl.sum(lane_products(gate_w, x, BLOCK_N, BLOCK_K), axis=1) * scale
        up = tl.sum(lane_products(up_w, x, BLOCK_N, BLOCK_K), axis=1) * scale
        _store_joined(gate, up, tile, out_ptr, N, BLOCK_N)
    else:
        for t in range(tile, NUM_TILES, PROGRAMS):
            gate_products = lane_products(gate_w, x, BLOCK_N, BLOCK_K)
            up_products = lane_products(up_w, x, BLOCK_N, BLOCK_K)
            if t + PROGRAMS < NUM_TILES:
                gate_w = load_rows(w_ptr, (t + PROGRAMS) * BLOCK_N, 0, N, K, BLOCK_N, BLOCK_K)
                up_w = load_rows(up_ptr, (t + PROGRAMS) * BLOCK_N, 0, N, K, BLOCK_N, BLOCK_K)
            gate = tl.sum(gate_products, axis=1) * scale
            up = tl.sum(up_products, axis=1) * scale
            _store_joined(gate, up, t, out_ptr, N, BLOCK_N)


@triton.jit
def _store_joined(
    gate: tl.tensor,
    up: tl.tensor,
    tile: tl.tensor,
    out_ptr: tl.tensor,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    rows = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    out = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + rows, out.to(out_ptr.dtype.element_ty), mask=rows < N)
