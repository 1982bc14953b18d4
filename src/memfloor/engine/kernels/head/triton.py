"""Final RMS norm, logits, and the best logit of every program."""

import triton
import triton.language as tl

from memfloor.engine.kernels.rows import normed_product


@triton.jit
def head_kernel(
    x_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    w_ptr: tl.tensor,
    position_ptr: tl.tensor,
    logits_ptr: tl.tensor,
    best_value_ptr: tl.tensor,
    best_token_ptr: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    EPS: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TEMPERATURE: tl.constexpr,
    SEED: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Write logits [N] = W [N, K] x [K] / rms, float32, and each program's best logit and token [programs].

    Each program takes BLOCK_N rows; of equal logits the lowest token wins. x is the residual stream times the final
    norm's weight.

    With a TEMPERATURE the best is a draw: logits / TEMPERATURE plus noise of Gumbel's distribution are greatest for
    each token with its softmax probability. The noise depends on SEED, position and token alone.
    """
    tile = tl.program_id(0)
    logits = normed_product(
        x_ptr,
        sums_ptr,
        w_ptr,
        N,
        K,
        EPS,
        NUM_SUMS,
        BLOCK_SUMS,
        FORMAT,
        BLOCK_N,
        BLOCK_K,
        PDL,
    )
    rows = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    tl.store(logits_ptr + rows, logits, mask=rows < N)
    if TEMPERATURE > 0:
        # A key for each position: its low half is the position, its high half the seed.
        key = tl.load(position_ptr).to(tl.int64) + (SEED << 32)
        # Above 0, whose logarithm is none.
        uniform = tl.maximum(tl.rand(key, rows), 2.0**-33)
        logits = logits / TEMPERATURE - tl.log(-tl.log(uniform))
    logits = tl.where(rows < N, logits, float("-inf"))
    top = tl.max(logits, axis=0)
    tl.store(best_value_ptr + tile, top)
    tl.store(best_token_ptr + tile, tl.min(tl.where(logits == top, rows, N), axis=0))
