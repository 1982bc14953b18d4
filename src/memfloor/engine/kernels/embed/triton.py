"""One embedding row as the residual stream, and the first norm's inputs."""

import triton
import triton.language as tl


@triton.jit
def write_embedding(
    token: tl.tensor,
    table_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    normed_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
) -> None:
    """Write the embedding [E] of a token as the residual, times the norm weight, and its sum of squares.

    The sum goes into the first of NUM_SUMS partial sums; the others become zero.
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


@triton.jit
def embed_kernel(
    token_ptr: tl.tensor,
    table_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    normed_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
) -> None:
    """Start a step: write what the first layer reads for the token in device memory; one program."""
    token = tl.load(token_ptr)
    write_embedding(
        token, table_ptr, norm_weight_ptr, residual_ptr, normed_ptr, sums_ptr, E, BLOCK_E, NUM_SUMS, BLOCK_SUMS
    )
