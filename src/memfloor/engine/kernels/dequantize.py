"""Quantised weights: how a packed matrix lies in memory, and how its words become numbers in registers.

A packed matrix [N, K] is one int32 buffer: the words of its rows, then its scales. A row is cut into chunks of 16
words, 64 bytes, which hold 64 columns of 8 bits or 128 of 4 bits: half h (0 low, 1 high) of word w holds in its field
e the chunk's column 32 e + 2 w + h. Field e is byte e or nibble e of the half. So the four words that a lane loads meet
four words of two neighbouring activations per field.

- int8: the byte is the weight + 128; one float32 scale per row.
- fp8: e4m3; one float32 scale per row.
- int4-g128: the weight is (nibble - zero) * scale; a bf16 scale below a bf16 zero in one word [chunks, N].
"""

import triton
import triton.language as tl

# Words of a row's chunk.
CHUNK_WORDS = tl.constexpr(16)
# e4m3 bits put into a float32 are 2**120 too small; each side of the product gets half of that back.
FP8_HALF_BIAS = tl.constexpr(2.0**60)


@triton.jit
def fp8_field(words: tl.tensor, field: tl.constexpr, half: tl.constexpr) -> tl.tensor:
    """Return a half's field of words as float32, 2**-120 times too small."""
    high = words << (24 - 16 * half - 8 * field)
    # The shift repeats the sign, so that one mask keeps it with the exponent and the fraction.
    return ((high >> 4) & -0x78100000).to(tl.float32, bitcast=True)


@triton.jit
def scale_and_zero(scales: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return the bf16 scales and zeros in words, as float32."""
    return (scales << 16).to(tl.float32, bitcast=True), (scales & -0x10000).to(tl.float32, bitcast=True)
