"""One embedding row as the residual stream, and the first norm's inputs."""

import triton
import triton.language as tl


@triton.jit
def write_embedding(
    token: tl.tensor,
    position: tl.tensor,
    table_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    normed_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    rope_row_ptr: tl.tensor,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
    D: tl.constexpr,
    MAX_LEN: tl.constexpr,
) -> None:
    """Write the embedding [E] of a token as the residual, times the norm weight, and its sum of squares.

    The sum goes into the first of NUM_SUMS partial sums; the others become zero. rope_row [2, D / 2] becomes the
    row of the tables [MAX_LEN, D / 2] at the position: cosines, then sines. Beyond the tables their last row is taken.
    """
    index = tl.arange(0, BLOCK_E)
    mask = index < E
    row = tl.load(table_ptr + token.to(tl.int64) * E + index, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(norm_weight_ptr + index, mask=mask, other=0.0).to(tl.float32)
    tl.store(residual_ptr + index, row, mask=mask)
    tl.store(normed_ptr + index, (row * weight).to(normed_ptr.dtype.element_ty), mask=mask)
    sums = tl.arange(0, BLOCK_SUMS)
    total = tl.sum(row * row, axis=0)
    tl.store(sums_ptr + sums, tl.where(sums == 0, total, 0.0), mask=sums < NUM_SUMS)
    angle = tl.arange(0, D // 2)
    row_start = tl.minimum(position, MAX_LEN - 1) * (D // 2)
    cos = tl.load(cos_ptr + row_start + angle)
    sin = tl.load(sin_ptr + row_start + angle)
    tl.store(rope_row_ptr + angle, cos)
    tl.store(rope_row_ptr + D // 2 + angle, sin)


@triton.jit
def embed_kernel(
    token_ptr: tl.tensor,
    position_ptr: tl.tensor,
    table_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    normed_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    rope_row_ptr: tl.tensor,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
    D: tl.constexpr,
    MAX_LEN: tl.constexpr,
) -> None:
    """Start a step: write what the first layer reads for the token in device memory; one program."""
    token = tl.load(token_ptr)
    position = tl.load(position_ptr)
    write_embedding(
        token,
        position,
        table_ptr,
        norm_weight_ptr,
        cos_ptr,
        sin_ptr,
        residual_ptr,
        normed_ptr,
        sums_ptr,
        rope_row_ptr,
        E,
        BLOCK_E,
        NUM_SUMS,
        BLOCK_SUMS,
        D,
        MAX_LEN,
    )
