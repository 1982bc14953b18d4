"""A matrix-vector product added to the residual stream, split over K, and the next norm's inputs."""

import triton
import triton.language as tl

from memfloor.engine.kernels.dependency import release_dependents, wait_after_constants, wait_before_constants
from memfloor.engine.kernels.rows import load_scales, load_tile, tiles_product


@triton.jit
def projection_kernel(
    x_ptr: tl.tensor,
    w_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    normed_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    ticket_ptr: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STEPS: tl.constexpr,
    AHEAD: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Add W [N, K] x [K] + bias [N] to the residual [N], float32, in place.

    Also write what the next norm needs: residual * norm weight [N], bf16, and per row tile the sum of squares
    of the residual. The grid is row tiles * SPLITS; each program takes STEPS blocks of K,
    AHEAD of them before its wait. The last program of
    a row tile to arrive, told by a ticket [row tiles] it resets, adds the partials [SPLITS, N] in fixed order:
    the result does not depend on who was last.
    """
    tile = tl.program_id(0) // SPLITS
    split = tl.program_id(0) % SPLITS
    column = split * (STEPS * BLOCK_K)
    release_dependents(PDL)
    wait_before_constants(PDL)
    tiles = ()
    for step in tl.static_range(AHEAD):
        at = column + step * BLOCK_K
        tiles = tiles + (load_tile(w_ptr, tile * BLOCK_N, at, N, K, FORMAT, BLOCK_N, BLOCK_K),)
    scales = load_scales(w_ptr, tile * BLOCK_N, 0, N, K, FORMAT, BLOCK_N)
    wait_after_constants(PDL)
    rows = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    residual = tl.load(residual_ptr + rows, mask=rows < N, other=0.0)
    norm_weight = tl.load(norm_weight_ptr + rows, mask=rows < N, other=0.0)
    for step in tl.static_range(AHEAD, STEPS):
        at = column + step * BLOCK_K
        tiles = tiles + (load_tile(w_ptr, tile * BLOCK_N, at, N, K, FORMAT, BLOCK_N, BLOCK_K),)
    products = tiles_product(tiles, x_ptr, column, K, FORMAT, BLOCK_K)
    out = tl.sum(products, axis=1) * scales
    if SPLITS == 1:
        _add_to_residual(
            out, residual, norm_weight, rows, tile, bias_ptr, residual_ptr, normed_ptr, sums_ptr, N, HAS_BIAS
        )
    else:
        tl.store(partial_ptr + split * N + rows, out, mask=rows < N)
        # Every lane's partial must be written before the ticket that announces it.
        tl.debug_barrier()
        arrived = tl.atomic_add(ticket_ptr + tile, 1, sem="acq_rel", scope="gpu")
        if arrived == SPLITS - 1:
            splits = tl.arange(0, BLOCK_SPLITS)[:, None]
            mask = (splits < SPLITS) & (rows < N)[None, :]
            partials = tl.load(partial_ptr + splits * N + rows[None, :], mask=mask, other=0.0, cache_modifier=".cg")
            out = tl.sum(partials, axis=0)
            _add_to_residual(
                out, residual, norm_weight, rows, tile, bias_ptr, residual_ptr, normed_ptr, sums_ptr, N, HAS_BIAS
            )
            tl.store(ticket_ptr + tile, 0)


@triton.jit
def _add_to_residual(
    out: tl.tensor,
    residual: tl.tensor,
    norm_weight: tl.tensor,
    rows: tl.tensor,
    tile: tl.tensor,
    bias_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    normed_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
) -> None:
    mask = rows < N
    if HAS_BIAS:
        out += tl.load(bias_ptr + rows, mask=mask, other=0.0).to(tl.float32)
    out += residual
    tl.store(residual_ptr + rows, out, mask=mask)
    normed = out * norm_weight.to(tl.float32)
    tl.store(normed_ptr + rows, normed.to(normed_ptr.dtype.element_ty), mask=mask)
    tl.store(sums_ptr + tile, tl.sum(out * out, axis=0))
