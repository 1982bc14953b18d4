"""RMS norm, the fused Q, K and V projections, and RoPE, as one matrix-vector product over pairs of rows."""

import triton
import triton.language as tl

from memfloor.engine.kernels.dependency import release_dependents, wait_after_constants, wait_before_constants
from memfloor.engine.kernels.rows import load_pair, pair_product


@triton.jit
def qkv_kernel(
    x_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    w_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    q_norm_ptr: tl.tensor,
    k_norm_ptr: tl.tensor,
    rope_row_ptr: tl.tensor,
    out_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    H: tl.constexpr,
    HKV: tl.constexpr,
    D: tl.constexpr,
    K: tl.constexpr,
    EPS: tl.constexpr,
    SCALE: tl.constexpr,
    NUM_SUMS: tl.constexpr,
    BLOCK_SUMS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    QK_NORM: tl.constexpr,
    FORMAT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Write the heads of W [(H + 2 HKV) D, K] x [K] / rms + bias, float32: Q rotated and times SCALE, K rotated, V.

    x is the residual stream times the norm's weight; 1 / rms is applied after the product, so the weights never wait
    for it. rope_row is the position's cosines, then its sines [2, D / 2]. Each program takes BLOCK_N rows of a head's
    first half, and those of its second half that they are rotated with. With QK_NORM, Q and K are also multiplied by
    their norms' weights [D], and what is left of those norms, the squares of each pair before that, goes to squares
    [(H + HKV) D / 2].
    """
    HALF: tl.constexpr = D // 2
    pair = tl.program_id(0) * BLOCK_N
    head = pair // HALF
    row = head * D + pair % HALF
    release_dependents(PDL)
    wait_before_constants(PDL)
    weights = load_pair(w_ptr, row, HALF, (H + 2 * HKV) * D, K, FORMAT, BLOCK_N, BLOCK_K)
    wait_after_constants(PDL)
    index = tl.arange(0, BLOCK_N)
    angle = pair % HALF + index
    turns = (index >= 0) & (head < H + HKV)
    cos = tl.load(rope_row_ptr + angle, mask=turns, other=1.0)
    sin = tl.load(rope_row_ptr + HALF + angle, mask=turns, other=0.0)
    first, second = pair_product(weights, x_ptr, sums_ptr, K, EPS, NUM_SUMS, BLOCK_SUMS, FORMAT, BLOCK_N, BLOCK_K)
    if HAS_BIAS:
        first += tl.load(bias_ptr + row + index).to(tl.float32)
        second += tl.load(bias_ptr + row + HALF + index).to(tl.float32)
    if QK_NORM:
        tl.store(squares_ptr + pair + index, first * first + second * second, mask=turns)
        first *= _norm_weight(q_norm_ptr, k_norm_ptr, angle, head, H, HKV)
        second *= _norm_weight(q_norm_ptr, k_norm_ptr, angle + HALF, head, H, HKV)
    scale = tl.where(head < H, SCALE, 1.0)
    tl.store(out_ptr + row + index, (first * cos - second * sin) * scale)
    tl.store(out_ptr + row + HALF + index, (second * cos + first * sin) * scale)


@triton.jit
def _norm_weight(
    q_norm_ptr: tl.tensor,
    k_norm_ptr: tl.tensor,
    dim: tl.tensor,
    head: tl.tensor,
    H: tl.constexpr,
    HKV: tl.constexpr,
) -> tl.tensor:
    """Return the norm weights of a head's dimensions; ones for V."""
    q = tl.load(q_norm_ptr + dim).to(tl.float32)
    k = tl.load(k_norm_ptr + dim).to(tl.float32)
    return tl.where(head < H, q, tl.where(head < H + HKV, k, 1.0))
