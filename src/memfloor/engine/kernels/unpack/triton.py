"""Packed weights written out as bf16, for products that tensor cores take."""

import triton
import triton.language as tl

from memfloor.engine.kernels.dequantize import CHUNK_WORDS, FP8_HALF_BIAS, fp8_field, scale_and_zero


@triton.jit
def unpack_kernel(
    w_ptr: tl.tensor,
    out_ptr: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Write the bf16 numbers [N, K] nearest to what a packed matrix stands for; a program takes BLOCK of its words."""
    COLUMNS: tl.constexpr = 128 if FORMAT == "int4-g128" else 64
    CHUNKS: tl.constexpr = K // COLUMNS
    WORDS: tl.constexpr = N * CHUNKS * CHUNK_WORDS
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = index < WORDS
    words = tl.load(w_ptr + index, mask=mask, other=0, eviction_policy="evict_first")
    chunk = index // CHUNK_WORDS
    row = chunk // CHUNKS
    scales_ptr = w_ptr + WORDS
    zero = 0.0
    if FORMAT == "int4-g128":
        scale, zero = scale_and_zero(tl.load(scales_ptr + chunk % CHUNKS * N + row, mask=mask, other=0))
    else:
        scale = tl.load(scales_ptr + row, mask=mask, other=0).to(tl.float32, bitcast=True)
    # Two neighbouring numbers a word.
    pairs_ptr = out_ptr.to(tl.pointer_type(tl.int32)) + chunk * (COLUMNS // 2) + index % CHUNK_WORDS
    for field in tl.static_range(COLUMNS // 32):
        low = _number(words, scale, zero, field, 0, FORMAT)
        high = _number(words, scale, zero, field, 1, FORMAT)
        tl.store(pairs_ptr + 16 * field, ((low >> 16) & 0xFFFF) | (high & -0x10000), mask=mask)


@triton.jit
def _number(
    words: tl.tensor,
    scale: tl.tensor,
    zero: tl.tensor,
    field: tl.constexpr,
    half: tl.constexpr,
    FORMAT: tl.constexpr,
) -> tl.tensor:
    """Return the number in a half's field of words, its float32 bits rounded so that the upper 16 are the bf16."""
    if FORMAT == "fp8":
        number = fp8_field(words, field, half) * FP8_HALF_BIAS * FP8_HALF_BIAS * scale
    elif FORMAT == "int8":
        number = (((words >> (16 * half + 8 * field)) & 0xFF).to(tl.float32) - 128.0) * scale
    else:
        number = (((words >> (16 * half + 4 * field)) & 0xF).to(tl.float32) - zero) * scale
    bits = number.to(tl.int32, bitcast=True)
    # To the nearest, ties to even; the interpreter would truncate.
    return bits + 0x7FFF + ((bits >> 16) & 1)
