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
    prefetch_rows,
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
    PROGRAMS: tl.constexpr,
    PREFETCH: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Write logits [N] = W [N, K] x [K] / rms, float32, and each program's best logit and token [PROGRAMS].

    Of equal logits the lowest token wins: tiles are visited in rising order. x is the residual stream
    times the final norm's weight. The first PREFETCH programs bring the tiles of the next PREFETCH into L2 while
    they wait.
    """
    tile = tl.program_id(0)
    release_dependents(PDL)
    wait_before_constants(PDL)
    w = load_rows(w_ptr, tile * BLOCK_N, 0, N, K, BLOCK_N, BLOCK_K)
    if PDL == 2 and tile < PREFETCH:
        prefetch_rows(w_ptr, (tile + PREFETCH) * BLOCK_N, 0, N, K, BLOCK_N, BLOCK_K)
    wait_after_constants(PDL)
    x = load_vector(x_ptr, 0, K, BLOCK_K)
    sums = load_sums(sums_ptr, NUM_SUMS, BLOCK_SUMS)
    NUM_TILES: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    best = tl.full((BLOCK_N,), float("-inf"), dtype=tl.float32)
    token = tl.zeros((BLOCK_N,), dtype=tl.int32)
    if PROGRAMS == NUM_TILES:
        logits = tl.sum(lane_products(w, x, BLOCK_N, BLOCK_K), axis=1)
        # Last, so that the products do not wait for the norm.
        logits *= norm_scale(sums, K, EPS)
        best, token = _store_logits(logits, tile, best, token, logits_ptr, N, BLOCK_N)
    else:
        scale = norm_scale(sums, K, EPS)
        for t in range(tile, NUM_TILES, PROGRAMS):
            products = lane_products(w, x, BLOCK_N, BLOCK_K)
            if t + PROGRAMS < NUM_TILES:
                w = load_rows(w_ptr, (t + PROGRAMS) * BLOCK_N, 0, N, K, BLOCK_N, BLOCK_K)
            logits = tl.sum(products, axis=1) * scale
            best, token = _store_logits(logits, t, best, token, logits_ptr, N, BLOCK_N)
    top = tl.max(best, axis=0)
    tl.store(best_value_ptr + tile, top)
    tl.store(best_token_ptr + tile, tl.min(tl.where(best == top, token, N), axis=0))


@triton.jit
def _store_logits(
    logits: tl.tensor,
    tile: tl.tensor,
    best: tl.tensor,
    token: tl.tensor,
    logits_ptr: tl.tensor,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Store a tile of logits; return the best logit and its token of each row of the tile so far."""
    rows = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    tl.store(logits_ptr + rows, logits, mask=rows < N)
    better = (logits > best) & (rows < N)
    return tl.where(better, logits, best), tl.where(better, rows, token)
