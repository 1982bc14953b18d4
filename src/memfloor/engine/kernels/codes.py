"""Integer weights times an activation, four bytes an instruction: the activation becomes codes of 16 bits.

Each chunk of an activation has a scale of its own, so that its greatest number takes all 15 bits and a sign: what is
lost is a part in 65534 of that. A code is a signed high byte and an unsigned low one; weights are unsigned bytes, and
what they have too much is taken away with the sum of the codes. Sums are exact as int32; one above 2**24 is rounded to
a float32 before it is scaled.
"""

import triton
import triton.language as tl

from memfloor.engine.kernels.dequantize import CHUNK_WORDS, scale_and_zero

# The interpreter knows no instructions of a GPU.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
GREATEST = tl.constexpr(32767.0)
# float32 1.5 * 2**23: a number added to it is rounded, and its code is in the lowest bits of the sum.
ROUNDING = tl.constexpr(12582912.0)
BYTES_0_2, BYTES_1_3 = tl.constexpr(0x00FF00FF), tl.constexpr(-0x00FF0100)
ONES, LOW_NIBBLES = tl.constexpr(0x01010101), tl.constexpr(0x0F0F0F0F)


@triton.jit
def encode(
    x_ptr: tl.tensor, column: tl.tensor, K: tl.constexpr, FORMAT: tl.constexpr, W: tl.constexpr
) -> tuple[tl.tuple, tl.tuple, tl.tensor, tl.tensor]:
    """Return an activation [K], bf16, from `column` on, as the bytes that W words of a row's weights meet.

    The low and the high bytes of the codes, each for every half of the weights' fields and in the parts of `quarters`;
    the sum of the codes that a lane's four words meet, int32 [1, W / 4]; their scale, float32 [1, W / 4].
    """
    COLUMNS: tl.constexpr = 128 if FORMAT == "int4-g128" else 64
    FIELDS: tl.constexpr = COLUMNS // 32
    HALF: tl.constexpr = FIELDS // 2
    C: tl.constexpr = W // CHUNK_WORDS
    # Two neighbouring activations a word.
    pairs_ptr = x_ptr.to(tl.pointer_type(tl.int32)) + column // 2
    word = tl.arange(0, W)[None, :]
    chunk = word // CHUNK_WORDS
    index = chunk * (COLUMNS // 2) + word % CHUNK_WORDS
    mask = column + chunk * COLUMNS < K
    pairs = ()
    top = tl.zeros((1, W), dtype=tl.int32)
    for field in tl.static_range(FIELDS):
        pair = tl.load(pairs_ptr + index + 16 * field, mask=mask, other=0)
        # As integers, magnitudes are in the same order, and a NaN is the greatest.
        top = tl.maximum(top, tl.maximum((pair << 16) & 0x7FFFFFFF, pair & 0x7FFF0000))
        pairs = pairs + (pair,)
    top = tl.max(tl.reshape(top, (C, CHUNK_WORDS)), axis=1).to(tl.float32, bitcast=True)[:, None]
    inverse = GREATEST / tl.where(top > 0, top, 1.0)
    inverse = tl.reshape(tl.broadcast_to(inverse, (C, CHUNK_WORDS)), (1, W))
    codes = ()
    for field in tl.static_range(FIELDS):
        first = ((pairs[field] << 16).to(tl.float32, bitcast=True) * inverse + ROUNDING).to(tl.int32, bitcast=True)
        second = ((pairs[field] & -0x10000).to(tl.float32, bitcast=True) * inverse + ROUNDING).to(
            tl.int32, bitcast=True
        )
        codes = codes + ((first & 0xFFFF) | (second << 16),)
    low, high = (), ()
    ones = tl.full((1, W // 4), ONES, dtype=tl.int32)
    total = tl.zeros((1, W // 4), dtype=tl.int32)
    rest = tl.zeros((1, W // 4), dtype=tl.int32)
    for field in tl.static_range(HALF):
        a, b = codes[field], codes[field + HALF]
        low = low + (quarters((a & BYTES_0_2) | ((b & BYTES_0_2) << 8)),)
        high = high + (quarters(((a >> 8) & BYTES_0_2) | (b & BYTES_1_3)),)
        for quarter in tl.static_range(4):
            total = byte_products(ones, high[field][quarter], total, True)
            rest = byte_products(ones, low[field][quarter], rest, False)
    sums = (total << 8) + rest
    scale = tl.reshape(tl.broadcast_to(top * (1.0 / GREATEST), (C, 4)), (1, W // 4))
    return low, high, sums, scale


@triton.jit
def code_products(words: tl.tensor, scales: tl.tensor, x: tl.tuple, FORMAT: tl.constexpr) -> tl.tensor:
    """Return partial products [R, W / 4], float32, of words [R, W] and an encoded activation; see `encode`."""
    low, high, sums, scale = x
    parts = quarters(words)
    products = 0 * parts[0]
    if FORMAT == "int4-g128":
        for quarter in tl.static_range(4):
            even, odd = parts[quarter] & LOW_NIBBLES, (parts[quarter] >> 4) & LOW_NIBBLES
            products = byte_products(even, high[0][quarter], products, True)
            products = byte_products(odd, high[1][quarter], products, True)
        products = products << 8
        for quarter in tl.static_range(4):
            even, odd = parts[quarter] & LOW_NIBBLES, (parts[quarter] >> 4) & LOW_NIBBLES
            products = byte_products(even, low[0][quarter], products, False)
            products = byte_products(odd, low[1][quarter], products, False)
        weight_scale, weight_zero = scale_and_zero(scales)
        return (products.to(tl.float32) - weight_zero * sums.to(tl.float32)) * (weight_scale * scale)
    else:
        for quarter in tl.static_range(4):
            products = byte_products(parts[quarter], high[0][quarter], products, True)
        products = products << 8
        for quarter in tl.static_range(4):
            products = byte_products(parts[quarter], low[0][quarter], products, False)
        # Weights were stored as 128 more.
        return (products - 128 * sums).to(tl.float32) * scale


@triton.jit
def quarters(words: tl.tensor) -> tl.tuple:
    """Return the four words of each lane's load of words [R, W], each [R, W / 4]."""
    even, odd = tl.split(tl.reshape(words, (words.shape[0], words.shape[1] // 4, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def byte_products(a: tl.tensor, b: tl.tensor, c: tl.tensor, SIGNED: tl.constexpr) -> tl.tensor:
    """Return c plus the products of the four unsigned bytes in a and those in b, which may be SIGNED; int32."""
    if INTERPRETED:
        for byte in tl.static_range(4):
            other = (b >> (8 * byte)) & 0xFF
            if SIGNED:
                other = (other ^ 0x80) - 0x80
            c = c + ((a >> (8 * byte)) & 0xFF) * other
        return c
    elif SIGNED:
        return tl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        return tl.inline_asm_elementwise(
            "dp4a.u32.u32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
