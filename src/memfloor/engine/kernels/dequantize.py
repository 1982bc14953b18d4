"""Quantised weights: how a packed matrix lies in memory, and how its words become numbers in registers.

A packed matrix [N, K] is one int32 buffer: the words of its rows, then its scales. A row is cut into chunks of 16
words, 64 bytes, which hold 64 columns of 8 bits or 128 of 4 bits: half h (0 low, 1 high) of word w holds in its field
e the chunk's column 32 e + 2 w + h. Field e is byte e or nibble e of the half. So one shift and a mask bring two
neighbouring columns into the two halves of a register, where they become two bf16 numbers or two float32 ones, and
a lane's four words meet eight neighbouring activations per field.

- int8: the byte is the weight + 128; one float32 scale per row.
- fp8: e4m3; one float32 scale per row.
- int4-g128: the weight is (nibble - zero) * scale; a bf16 scale below a bf16 zero in one word [chunks, N].
"""

import triton
import triton.language as tl

# Words of a row's chunk.
CHUNK_WORDS = tl.constexpr(16)
# Two bf16 numbers 128 + n for n below 128, when n is put into their lowest bits.
BF16_128 = tl.constexpr(0x43004300)
# float32 2**23 + n for n below 2**23, when n is put into its lowest bits.
FLOAT32_2_23 = tl.constexpr(0x4B000000)
# e4m3 bits put into a bf16 or float32 are 2**120 too small; each side of the product gets half of that back.
FP8_HALF_BIAS = tl.constexpr(2.0**60)
# The interpreter cannot multiply bf16 matrices.
DOT_TYPE = tl.constexpr(tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16)


@triton.jit
def dot_field(words: tl.tensor, field: tl.constexpr, FORMAT: tl.constexpr) -> tl.tensor:
    """Return a field of words [C, BLOCK_N, 16] as numbers [C, BLOCK_N, 32]; those of int4 have 128 added."""
    # A sum the compiler cannot know, or it would spend two instructions on a mask and a constant.
    magic = BF16_128 + tl.program_id(1)
    if FORMAT == "int4-g128":
        return _halves(((words >> (4 * field)) & 0x000F000F) | magic)
    elif FORMAT == "int8":
        shifted = words >> (8 * field)
        # 128 plus the byte's low bits, less 256, or less 128 if its high bit is set.
        low = _halves((shifted & 0x007F007F) | magic)
        return low - _halves((shifted & 0x00800080) ^ (magic + 0x00800080))
    else:
        high = words << (8 - 8 * field)
        return _halves((high & -0x7FFF8000) | ((high >> 4) & 0x07F007F0))


@triton.jit
def lane_field(
    words: tl.tensor, zero: tl.tensor, field: tl.constexpr, half: tl.constexpr, FORMAT: tl.constexpr
) -> tl.tensor:
    """Return a half's field of words as float32, the zero taken away."""
    magic = FLOAT32_2_23 + tl.program_id(1)
    if FORMAT == "int4-g128":
        nibble = (words >> (16 * half + 4 * field)) & 0xF
        return (nibble | magic).to(tl.float32, bitcast=True) - (zero + 8388608.0)
    elif FORMAT == "int8":
        byte = (words >> (16 * half + 8 * field)) & 0xFF
        return (byte | magic).to(tl.float32, bitcast=True) - 8388736.0
    else:
        high = words << (24 - 16 * half - 8 * field)
        return ((high & -0x80000000) | ((high >> 4) & 0x07F00000)).to(tl.float32, bitcast=True)


@triton.jit
def scale_and_zero(scales: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return the bf16 scales and zeros in words, as float32."""
    return (scales << 16).to(tl.float32, bitcast=True), (scales & -0x10000).to(tl.float32, bitcast=True)


@triton.jit
def operand_order(tile: tl.tensor, A: tl.constexpr, B: tl.constexpr) -> tl.tensor:
    """Reorder [A, B, 32] along its last dimension as both operands of a tensor core want it from their lanes.

    A lane loads eight numbers in a row, four lanes 32; for the tensor core the same lanes hold pairs at distances of
    16 and 2. Both operands are reordered alike, so that their product is not.
    """
    tile = tl.permute(tl.reshape(tile, (A, B, 4, 2, 2, 2)), (0, 1, 4, 2, 3, 5))
    return tl.reshape(tile, (A, B, 32))


@triton.jit
def _halves(words: tl.tensor) -> tl.tensor:
    """Return the bf16 numbers [C, BLOCK_N, 32] in the halves of words [C, BLOCK_N, 16]."""
    low = (words & 0xFFFF).to(tl.int16).to(tl.bfloat16, bitcast=True)
    high = (words >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    pairs = tl.join(low.to(DOT_TYPE), high.to(DOT_TYPE))
    return tl.reshape(pairs, (words.shape[0], words.shape[1], 2 * CHUNK_WORDS))
