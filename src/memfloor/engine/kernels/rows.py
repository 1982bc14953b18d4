"""Parts of a matrix-vector product: load a tile of weight rows, multiply it, scale by the norm.

Weights are bf16 [N, K], or packed; FORMAT tells which. A tile and an activation are whatever
their format's product takes.
"""

import triton
import triton.language as tl

from memfloor.engine.kernels.dependency import release_dependents, wait_after_constants, wait_before_constants
from memfloor.engine.kernels.packed import load_packed, load_row_scales, packed_products


@triton.jit
def load_tile(
    w_ptr: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tl.tensor:
    """Load weights [BLOCK_N, BLOCK_K] from `row` and `column` on; zeros beyond [N, K]."""
    if FORMAT == "bf16":
        return load_rows(w_ptr, row, column, N, K, BLOCK_N, BLOCK_K)
    else:
        return load_packed(w_ptr, row, column, 0, N, K, FORMAT, BLOCK_N, BLOCK_K)


@triton.jit
def load_scales(
    w_ptr: tl.tensor,
    row: tl.tensor,
    STRIDE: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> tl.tensor:
    """Load the scales of BLOCK_N rows, and of those STRIDE further on if there is one; one where rows have none."""
    if FORMAT == "int8" or FORMAT == "fp8":
        return load_row_scales(w_ptr, row, STRIDE, N, K, FORMAT, BLOCK_N)
    else:
        return 1.0


@triton.jit
def load_pair(
    w_ptr: tl.tensor,
    row: tl.tensor,
    STRIDE: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Load BLOCK_N whole rows of [N, K] from `row` on and those STRIDE further on, for pair_product."""
    if FORMAT == "bf16":
        first = load_rows(w_ptr, row, 0, N - STRIDE, K, BLOCK_N, BLOCK_K)
        second = load_rows(w_ptr + STRIDE * K, row, 0, N - STRIDE, K, BLOCK_N, BLOCK_K)
        return first, second, 1.0
    else:
        words, scales = load_packed(w_ptr, row, 0, STRIDE, N, K, FORMAT, BLOCK_N, BLOCK_K)
        return words, scales, load_scales(w_ptr, row, STRIDE, N, K, FORMAT, BLOCK_N)


@triton.jit
def pair_product(
    pair: tl.tuple,
    x_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    K: tl.constexpr,
    EPS: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Return both halves [BLOCK_N] of a pair of rows times x [K] / rms."""
    sums = load_sums(sums_ptr, NUM_SUMS, BLOCK_SUMS)
    scale = norm_scale(sums, K, EPS)
    if FORMAT == "bf16":
        x = load_words(x_ptr, 0, K, BLOCK_K)
        first = tl.sum(lane_products(pair[0], x), axis=1) * scale
        second = tl.sum(lane_products(pair[1], x), axis=1) * scale
        return first, second
    else:
        products = packed_products(pair[0], pair[1], x_ptr, 0, K, FORMAT)
        both = tl.sum(products, axis=1) * (pair[2] * scale)
        return tl.split(tl.permute(tl.reshape(both, (2, BLOCK_N)), (1, 0)))


@triton.jit
def tile_products(
    tile: tl.tensor,
    x_ptr: tl.tensor,
    column: tl.tensor,
    K: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tl.tensor:
    """Return the partial products of a tile from `column` on and an activation [K], to be summed over."""
    if FORMAT == "bf16":
        return lane_products(tile, load_words(x_ptr, column, K, BLOCK_K))
    else:
        return packed_products(tile[0], tile[1], x_ptr, column, K, FORMAT)


@triton.jit
def tiles_product(
    tiles: tl.tuple,
    x_ptr: tl.tensor,
    column: tl.tensor,
    K: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tl.tensor:
    """Return the partial products of tiles side by side, from `column` on, and an activation [K], to be summed over."""
    products = tile_products(tiles[0], x_ptr, column, K, FORMAT, BLOCK_K)
    for step in tl.static_range(1, len(tiles)):
        products += tile_products(tiles[step], x_ptr, column + step * BLOCK_K, K, FORMAT, BLOCK_K)
    return products


@triton.jit
def load_rows(
    w_ptr: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tl.tensor:
    """Load bf16 weights [BLOCK_N, BLOCK_K] from `row` and `column` on, two in a word; zeros beyond [N, K].

    Weights are read once a step, so they are first to leave the cache.
    """
    rows = (row + tl.arange(0, BLOCK_N)).to(tl.int64)[:, None]
    words = column // 2 + tl.arange(0, BLOCK_K // 2)[None, :]
    mask = words < K // 2
    if N % BLOCK_N != 0:
        mask = mask & (rows < N)
    pairs_ptr = w_ptr.to(tl.pointer_type(tl.int32))
    return tl.load(pairs_ptr + rows * (K // 2) + words, mask=mask, other=0, eviction_policy="evict_first")


@triton.jit
def normed_product(
    x_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    w_ptr: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    EPS: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
) -> tl.tensor:
    """Return this program's BLOCK_N rows of W [N, K] x [K] / rms, waiting for the previous kernel on the way."""
    tile = tl.program_id(0)
    release_dependents(PDL)
    wait_before_constants(PDL)
    w = load_tile(w_ptr, tile * BLOCK_N, 0, N, K, FORMAT, BLOCK_N, BLOCK_K)
    scales = load_scales(w_ptr, tile * BLOCK_N, 0, N, K, FORMAT, BLOCK_N)
    wait_after_constants(PDL)
    sums = load_sums(sums_ptr, NUM_SUMS, BLOCK_SUMS)
    out = tl.sum(tile_products(w, x_ptr, 0, K, FORMAT, BLOCK_K), axis=1) * scales
    # Last, so that the products do not wait for the norm.
    out *= norm_scale(sums, K, EPS)
    return out


@triton.jit
def load_words(x_ptr: tl.tensor, column: tl.tensor, K: tl.constexpr, BLOCK_K: tl.constexpr) -> tl.tensor:
    """Load an activation [1, BLOCK_K], bf16, from `column` on, two numbers in a word; zeros beyond K."""
    words = column // 2 + tl.arange(0, BLOCK_K // 2)[None, :]
    return tl.load(x_ptr.to(tl.pointer_type(tl.int32)) + words, mask=words < K // 2, other=0)


@triton.jit
def lane_products(w: tl.tensor, x: tl.tensor) -> tl.tensor:
    """Return partial products [R, W // 4] of words [R, W] and [1, W], each over the eight numbers of a lane's load."""
    R: tl.constexpr = w.shape[0]
    QUADS: tl.constexpr = w.shape[1] // 4
    low = (w << 16).to(tl.float32, bitcast=True) * (x << 16).to(tl.float32, bitcast=True)
    high = (w & -0x10000).to(tl.float32, bitcast=True) * (x & -0x10000).to(tl.float32, bitcast=True)
    return tl.sum(tl.reshape(low, (R, QUADS, 4)), axis=2) + tl.sum(tl.reshape(high, (R, QUADS, 4)), axis=2)


@triton.jit
def load_sums(sums_ptr: tl.tensor, NUM_SUMS: tl.constexpr, BLOCK_SUMS: tl.constexpr) -> tl.tensor:
    """Load partial sums of squares [NUM_SUMS]; zeros beyond."""
    index = tl.arange(0, BLOCK_SUMS)
    return tl.load(sums_ptr + index, mask=index < NUM_SUMS, other=0.0)


@triton.jit
def norm_scale(sums: tl.tensor, K: tl.constexpr, EPS: tl.constexpr) -> tl.tensor:
    """Return 1 / rms of a vector of K numbers from partial sums of its squares."""
    return tl.rsqrt(tl.sum(sums, axis=0) / K + EPS)
