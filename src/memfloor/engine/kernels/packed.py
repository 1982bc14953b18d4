"""Packed weight rows: load them 16 bytes per lane and multiply them with an activation; see `dequantize`.

There are two ways to multiply: by float32 lanes, or (DOT) on tensor cores, where the activation is a matrix of eight
equal columns and each warp takes whole chunks. The lane of a tensor core's operand is then the lane that loaded it, so
nothing moves between lanes.
"""

import triton
import triton.language as tl

from memfloor.engine.kernels.codes import code_products, encode
from memfloor.engine.kernels.dequantize import (
    CHUNK_WORDS,
    DOT_TYPE,
    FP8_HALF_BIAS,
    dot_field,
    lane_field,
    operand_order,
    scale_and_zero,
)

# Columns of the activation's matrix: the fewest a tensor core takes.
DOT_COLUMNS = tl.constexpr(8)


@triton.jit
def load_packed(
    w_ptr: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    STRIDE: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    FORMAT: tl.constexpr,
    DOT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Load the words, and the scales of groups, of BLOCK_N rows and BLOCK_K columns from `row` and `column` on.

    The matrix is [N, K], with zeros beyond. With a STRIDE the rows that many further on are loaded too: R is then 2 *
    BLOCK_N, without one BLOCK_N. For tensor cores words are [C, R, 16] and scales [C, R, 8], for C chunks; for lanes [R, 16 C] and [R, 4 C].
    Formats without groups have no such scales.
    """
    COLUMNS: tl.constexpr = 128 if FORMAT == "int4-g128" else 64
    CHUNKS: tl.constexpr = K // COLUMNS
    C: tl.constexpr = BLOCK_K // COLUMNS
    scales_ptr = w_ptr + N * CHUNKS * CHUNK_WORDS
    chunk = column // COLUMNS
    if DOT:
        words = _load_chunks(w_ptr, row, chunk, STRIDE, N, CHUNKS, BLOCK_N, C)
    else:
        words = _load_lanes(w_ptr, row, chunk, STRIDE, N, CHUNKS, BLOCK_N, C)
    scales = 0
    if FORMAT == "int4-g128":
        if DOT:
            scales = _load_chunk_scales(scales_ptr, row, chunk, STRIDE, N, CHUNKS, BLOCK_N, C)
        else:
            scales = _load_lane_scales(scales_ptr, row, chunk, STRIDE, N, CHUNKS, BLOCK_N, C)
    return words, scales


@triton.jit
def _load_chunks(
    values_ptr: tl.tensor,
    row: tl.tensor,
    chunk: tl.tensor,
    STRIDE: tl.constexpr,
    N: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    C: tl.constexpr,
) -> tl.tensor:
    # In this order of dimensions the compiler gives each lane four words, four lanes a chunk, a warp eight rows and
    # chunks of its own: what the tensor core wants.
    GROUPS: tl.constexpr = BLOCK_N // 8
    PARTS: tl.constexpr = 2 if STRIDE else 1
    group = tl.arange(0, PARTS * GROUPS)[None, None, :, None]
    rows = tl.arange(0, 8)[:, None, None, None] + group % GROUPS * 8
    chunks = tl.arange(0, C)[None, :, None, None]
    mask = chunk + chunks < CHUNKS
    if (N - STRIDE) % BLOCK_N != 0:
        mask = mask & (row + rows < N - STRIDE)
    # Added one by one, chunks become constants of the load instructions.
    values_ptr += (row * CHUNKS + chunk) * CHUNK_WORDS
    offsets = chunks * CHUNK_WORDS + tl.arange(0, CHUNK_WORDS)[None, None, None, :]
    w_ptr = values_ptr + (rows + group // GROUPS * STRIDE) * (CHUNKS * CHUNK_WORDS) + offsets
    words = tl.load(w_ptr, mask=mask, other=0, eviction_policy="evict_first")
    return tl.reshape(tl.permute(words, (1, 2, 0, 3)), (C, PARTS * BLOCK_N, CHUNK_WORDS))


@triton.jit
def _load_chunk_scales(
    scales_ptr: tl.tensor,
    row: tl.tensor,
    chunk: tl.tensor,
    STRIDE: tl.constexpr,
    N: tl.constexpr,
    CHUNKS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    C: tl.constexpr,
) -> tl.tensor:
    # Four lanes load the same word: they hold two columns each of a row's results. The compiler, did it know that rows
    # are neighbours, would give a lane several; a sum it cannot know hides it.
    GROUPS: tl.constexpr = BLOCK_N // 8
    PARTS: tl.constexpr = 2 if STRIDE else 1
    lane = (tl.arange(0, 8) ^ tl.program_id(1))[None, :, None, None]
    group = tl.arange(0, PARTS * GROUPS)[None, None, None, :]
    chunks = tl.arange(0, C)[None, None, :, None]
    mask = chunk + chunks < CHUNKS
    if (N - STRIDE) % BLOCK_N != 0:
        mask = mask & (row + lane + group % GROUPS * 8 < N - STRIDE)
    offsets = chunks * N + group // GROUPS * STRIDE + group % GROUPS * 8 + 0 * tl.arange(0, 4)[:, None, None, None]
    scales = tl.load(scales_ptr + (chunk * N + row) + lane + offsets, mask=mask, other=0)
    scales = tl.reshape(tl.permute(scales, (2, 3, 1, 0)), (C, PARTS * BLOCK_N, 4))
    return tl.reshape(tl.join(scales, scales), (C, PARTS * BLOCK_N, 8))


@triton.jit
def _load_lanes(
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
def _load_lane_scales(
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
    words: tl.tensor,
    scales: tl.tensor,
    x_ptr: tl.tensor,
    column: tl.tensor,
    K: tl.constexpr,
    FORMAT: tl.constexpr,
    DOT: tl.constexpr,
) -> tl.tensor:
    """Return partial products of words from `column` on and x [K], bf16, for sum_packed to add up.

    They are [C, R, 8] on tensor cores, all columns equal, and [R, 4 C] in lanes.
    """
    if DOT:
        return _dot(words, scales, x_ptr, column, K, FORMAT)
    elif FORMAT != "fp8":
        return code_products(words, scales, encode(x_ptr, column, K, FORMAT, words.shape[1]), FORMAT)
    else:
        return _multiply(words, scales, x_ptr, column, K, FORMAT)


@triton.jit
def sum_packed(products: tl.tensor, DOT: tl.constexpr) -> tl.tensor:
    """Add up partial products to [R]."""
    if DOT:
        # Eight equal columns: their sum divided by eight is exact.
        return tl.sum(tl.sum(products, axis=0), axis=1) * (1.0 / DOT_COLUMNS)
    else:
        return tl.sum(products, axis=1)


@triton.jit
def _dot(
    words: tl.tensor,
    scales: tl.tensor,
    x_ptr: tl.tensor,
    column: tl.tensor,
    K: tl.constexpr,
    FORMAT: tl.constexpr,
) -> tl.tensor:
    COLUMNS: tl.constexpr = 128 if FORMAT == "int4-g128" else 64
    C: tl.constexpr = words.shape[0]
    BLOCK_N: tl.constexpr = words.shape[1]
    # Joined as the weights are, so that the compiler wants the activation in the same lanes.
    ones = tl.full((C, BLOCK_N, CHUNK_WORDS), 1.0, dtype=DOT_TYPE)
    ones = tl.reshape(tl.join(ones, ones), (C, BLOCK_N, 2 * CHUNK_WORDS))
    chunks = tl.arange(0, C)[None, :, None]
    index = chunks * COLUMNS + tl.arange(0, 32)[None, None, :] + 0 * tl.arange(0, DOT_COLUMNS)[:, None, None]
    products = tl.zeros((C, BLOCK_N, DOT_COLUMNS), dtype=tl.float32)
    sums = tl.zeros((C, BLOCK_N, DOT_COLUMNS), dtype=tl.float32)
    for field in tl.static_range(COLUMNS // 32):
        # Loaded here and not all at once: registers hold the weights.
        x = tl.load(x_ptr + column + index + 32 * field, mask=column + chunks * COLUMNS < K, other=0.0).to(DOT_TYPE)
        if FORMAT == "fp8":
            x *= FP8_HALF_BIAS
        x = tl.permute(operand_order(tl.permute(x, (1, 0, 2)), C, DOT_COLUMNS), (0, 2, 1))
        w = operand_order(dot_field(words, field, FORMAT), C, BLOCK_N)
        products = tl.dot(w, x, products)
        if FORMAT == "int4-g128":
            sums = tl.dot(ones, x, sums)
    if FORMAT == "int4-g128":
        # Weights were 128 + nibble: take (128 + zero) times the sum of the activation away.
        scale, zero = scale_and_zero(scales)
        products = (products - (zero + 128.0) * sums) * scale
    return products


@triton.jit
def _multiply(
    words: tl.tensor,
    scales: tl.tensor,
    x_ptr: tl.tensor,
    column: tl.tensor,
    K: tl.constexpr,
    FORMAT: tl.constexpr,
) -> tl.tensor:
    COLUMNS: tl.constexpr = 128 if FORMAT == "int4-g128" else 64
    BLOCK_N: tl.constexpr = words.shape[0]
    QUADS: tl.constexpr = words.shape[1] // 4
    zeros = 0.0
    if FORMAT == "int4-g128":
        scale, zero = scale_and_zero(scales)
        zeros = tl.reshape(tl.broadcast_to(zero[:, :, None], (BLOCK_N, QUADS, 4)), words.shape)
    # Two neighbouring activations a word.
    pairs_ptr = x_ptr.to(tl.pointer_type(tl.int32))
    word = tl.arange(0, 4 * QUADS)[None, :]
    chunks = word // CHUNK_WORDS
    index = chunks * (COLUMNS // 2) + word % CHUNK_WORDS
    products = tl.zeros(words.shape, dtype=tl.float32)
    for field in tl.static_range(COLUMNS // 32):
        x = tl.load(pairs_ptr + column // 2 + index + 16 * field, mask=column + chunks * COLUMNS < K, other=0)
        low = (x << 16).to(tl.float32, bitcast=True)
        high = (x & -0x10000).to(tl.float32, bitcast=True)
        if FORMAT == "fp8":
            low *= FP8_HALF_BIAS
            high *= FP8_HALF_BIAS
        products += lane_field(words, zeros, field, 0, FORMAT) * low
        products += lane_field(words, zeros, field, 1, FORMAT) * high
    # First over the words that one lane loaded: of one group.
    sums = tl.sum(tl.reshape(products, (BLOCK_N, QUADS, 4)), axis=2)
    if FORMAT == "int4-g128":
        sums *= scale
    return sums
