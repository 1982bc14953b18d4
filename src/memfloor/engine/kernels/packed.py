"""Packed weight rows: load them 16 bytes per lane and multiply them with an activation; see `dequantize`.

Integers meet the activation as bytes (`codes`), fp8 as float32 numbers.
"""

import triton
import triton.language as tl

from memfloor.engine.kernels.codes import code_products, encode
from memfloor.engine.kernels.dequantize import CHUNK_WORDS, FP8_HALF_BIAS, fp8_field


@triton.jit
def load_packed(
    w_ptr: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    STRIDE: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Load the words [R, W], and the scales of groups [R, W / 4], of BLOCK_N rows from `row` and BLOCK_K columns on.

    The matrix is [N, K], with zeros beyond. With a STRIDE the rows that many further on are loaded too: R is then 2 *
    BLOCK_N, without one BLOCK_N. Formats without groups have no such scales.
    """
    COLUMNS: tl.constexpr = 128 if FORMAT == "int4-g128" else 64
    CHUNKS: tl.constexpr = K // COLUMNS
    C: tl.constexpr = BLOCK_K // COLUMNS
    chunk = column // COLUMNS
    words = _load_words(w_ptr, row, chunk, STRIDE, N, CHUNKS, BLOCK_N, C)
    scales = 0
    if FORMAT == "int4-g128":
        scales = _load_group_scales(w_ptr + N * CHUNKS * CHUNK_WORDS, row, chunk, STRIDE, N, CHUNKS, BLOCK_N, C)
    return words, scales


@triton.jit
def _load_words(
    values_ptr: tl.tensor,
    row: tl.tensor,
    chunk: tl.tensor,
    STRIDE: tl.constexpr,
    N: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    C: tl.constexpr,
) -> tl.tensor:
    PARTS: tl.constexpr = 2 if STRIDE else 1
    index = tl.arange(0, PARTS * BLOCK_N)[:, None]
    rows = index % BLOCK_N
    words = tl.arange(0, CHUNK_WORDS * C)[None, :]
    mask = CHUNK_WORDS * chunk + words < CHUNK_WORDS * CHUNKS
    if (N - STRIDE) % BLOCK_N != 0:
        mask = mask & (row + rows < N - STRIDE)
    values_ptr += (row * CHUNKS + chunk) * CHUNK_WORDS
    offsets = (rows + index // BLOCK_N * STRIDE) * (CHUNK_WORDS * CHUNKS) + words
    return tl.load(values_ptr + offsets, mask=mask, other=0, eviction_policy="evict_first")


@triton.jit
def _load_group_scales(
    scales_ptr: tl.tensor,
    row: tl.tensor,
    chunk: tl.tensor,
    STRIDE: tl.constexpr,
    N: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    C: tl.constexpr,
) -> tl.tensor:
    PARTS: tl.constexpr = 2 if STRIDE else 1
    index = tl.arange(0, PARTS * BLOCK_N)[:, None]
    rows = row + index % BLOCK_N
    chunks = chunk + tl.arange(0, 4 * C)[None, :] // 4
    offsets = chunks * N + index // BLOCK_N * STRIDE + rows
    return tl.load(scales_ptr + offsets, mask=(rows < N - STRIDE) & (chunks < CHUNKS), other=0)


@triton.jit
def load_row_scales(
    w_ptr: tl.tensor,
    row: tl.tensor,
    STRIDE: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> tl.tensor:
    """Load the scales [R] of rows of int8 or fp8, as load_packed counts them."""
    PARTS: tl.constexpr = 2 if STRIDE else 1
    index = tl.arange(0, PARTS * BLOCK_N)
    rows = row + index % BLOCK_N
    scales_ptr = w_ptr + N * (K // 64) * CHUNK_WORDS
    bits = tl.load(scales_ptr + index // BLOCK_N * STRIDE + rows, mask=rows < N - STRIDE, other=0)
    scales = bits.to(tl.float32, bitcast=True)
    if FORMAT == "fp8":
        scales *= FP8_HALF_BIAS
    return scales


@triton.jit
def packed_products(
    words: tl.tensor, scales: tl.tensor, x_ptr: tl.tensor, column: tl.tensor, K: tl.constexpr, FORMAT: tl.constexpr
) -> tl.tensor:
    """Return partial products [R, W / 4], float32, of words [R, W] from `column` on and an activation [K], bf16."""
    if FORMAT == "fp8":
        return _fp8_products(words, x_ptr, column, K)
    else:
        return code_products(words, scales, encode(x_ptr, column, K, FORMAT, words.shape[1]), FORMAT)


@triton.jit
def _fp8_products(words: tl.tensor, x_ptr: tl.tensor, column: tl.tensor, K: tl.constexpr) -> tl.tensor:
    R: tl.constexpr = words.shape[0]
    QUADS: tl.constexpr = words.shape[1] // 4
    # Two neighbouring activations a word.
    pairs_ptr = x_ptr.to(tl.pointer_type(tl.int32)) + column // 2
    word = tl.arange(0, 4 * QUADS)[None, :]
    chunk = word // CHUNK_WORDS
    index = chunk * 32 + word % CHUNK_WORDS
    products = tl.zeros(words.shape, dtype=tl.float32)
    for field in tl.static_range(2):
        x = tl.load(pairs_ptr + index + 16 * field, mask=column + chunk * 64 < K, other=0)
        products += fp8_field(words, field, 0) * ((x << 16).to(tl.float32, bitcast=True) * FP8_HALF_BIAS)
        products += fp8_field(words, field, 1) * ((x & -0x10000).to(tl.float32, bitcast=True) * FP8_HALF_BIAS)
    return tl.sum(tl.reshape(products, (R, QUADS, 4)), axis=2)
