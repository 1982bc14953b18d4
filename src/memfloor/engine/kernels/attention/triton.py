"""Split-KV attention of one token, with QK norm, RoPE and the KV append in front, and the sum over splits."""

import triton
import triton.language as tl

from memfloor.engine.kernels.dependency import (
    release_dependents,
    wait_after_constants,
    wait_before_constants,
    wait_for_previous,
)


@triton.jit
def attention_kernel(
    qkv_ptr: tl.tensor,
    position_ptr: tl.tensor,
    rope_row_ptr: tl.tensor,
    q_norm_ptr: tl.tensor,
    k_norm_ptr: tl.tensor,
    k_cache_ptr: tl.tensor,
    v_cache_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    max_ptr: tl.tensor,
    sum_ptr: tl.tensor,
    HKV: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_G: tl.constexpr,
    D: tl.constexpr,
    MAX_LEN: tl.constexpr,
    QK_NORM: tl.constexpr,
    EPS: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK_S: tl.constexpr,
    SPLITS: tl.constexpr,
    DOT_TYPE: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Attend from one token at `position` to each split of slots [0, position] of a cache [HKV, MAX_LEN, D].

    qkv holds raw projections, float32: Q [HKV, GROUP, D], K [HKV, D], V [HKV, D]. The grid is HKV * SPLITS; split
    s of a KV head takes blocks s, s + SPLITS, … of BLOCK_S slots. The token's own key and value come straight from
    qkv; the program whose block they fall into appends them to the cache. Each split leaves its greatest score and sum
    of weights [HKV, GROUP, SPLITS], minus infinity and zero if it has no slots, and those with slots their partial
    [HKV, GROUP, SPLITS, D]. rope_row is the position's cosines, then its signed sines [2, D]. SCALE includes log2(e).
    """
    head = tl.program_id(0) % HKV
    split = tl.program_id(0) // HKV
    release_dependents(PDL)
    wait_before_constants(PDL)
    k_base = k_cache_ptr + head * (MAX_LEN * D)
    v_base = v_cache_ptr + head * (MAX_LEN * D)
    # Before the wait the position may still be the previous step's: allow for one slot more.
    bound = tl.minimum(tl.load(position_ptr, volatile=True) + 1, MAX_LEN)
    k = _load_slots(k_base, split * BLOCK_S, bound, D, BLOCK_S)
    v = _load_slots(v_base, split * BLOCK_S, bound, D, BLOCK_S)
    wait_after_constants(PDL)
    # All dependent loads start together; only then is anything computed.
    position = tl.load(position_ptr, volatile=True)
    dims = tl.arange(0, D)[None, :]
    swapped = (dims + D // 2) % D
    heads = tl.arange(0, BLOCK_G)[:, None]
    real = heads < GROUP
    q_ptr = qkv_ptr + (head * GROUP + heads) * D
    k_ptr = qkv_ptr + (HKV * GROUP + head) * D
    q = tl.load(q_ptr + dims, mask=real, other=0.0)
    q_swapped = tl.load(q_ptr + swapped, mask=real, other=0.0)
    new_k = tl.load(k_ptr + dims)
    new_k_swapped = tl.load(k_ptr + swapped)
    new_v = tl.load(k_ptr + HKV * D + dims).to(v_cache_ptr.dtype.element_ty)
    cos = tl.load(rope_row_ptr + dims)
    sin = tl.load(rope_row_ptr + D + dims)
    num_blocks = position // BLOCK_S + 1
    row = (head * GROUP + tl.arange(0, BLOCK_G)) * SPLITS + split
    top = tl.full((BLOCK_G,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_G,), dtype=tl.float32)
    if split < num_blocks:
        if QK_NORM:
            q, q_swapped = _normed(q, q_swapped, q_norm_ptr, dims, swapped, D, EPS)
            new_k, new_k_swapped = _normed(new_k, new_k_swapped, k_norm_ptr, dims, swapped, D, EPS)
        query = ((q * cos + q_swapped * sin) * SCALE).to(DOT_TYPE)
        key = (new_k * cos + new_k_swapped * sin).to(k_cache_ptr.dtype.element_ty)
        if split == (num_blocks - 1) % SPLITS:
            tl.store(k_base + position * D + dims, key)
            tl.store(v_base + position * D + dims, new_v)
        acc = tl.zeros((BLOCK_G, D), dtype=tl.float32)
        for block in range(split, num_blocks, SPLITS):
            next_k = _load_slots(k_base, (block + SPLITS) * BLOCK_S, position, D, BLOCK_S)
            next_v = _load_slots(v_base, (block + SPLITS) * BLOCK_S, position, D, BLOCK_S)
            slots = block * BLOCK_S + tl.arange(0, BLOCK_S)
            is_new = (slots == position)[:, None]
            k = tl.where(is_new, key, k)
            v = tl.where(is_new, new_v, v)
            scores = tl.dot(query, tl.trans(k.to(DOT_TYPE)))
            scores = tl.where((slots <= position)[None, :], scores, float("-inf"))
            new_top = tl.maximum(top, tl.max(scores, axis=1))
            weights = tl.exp2(scores - new_top[:, None])
            decay = tl.exp2(top - new_top)
            total = total * decay + tl.sum(weights, axis=1)
            acc = acc * decay[:, None] + tl.dot(weights.to(DOT_TYPE), v.to(DOT_TYPE))
            top = new_top
            k = next_k
            v = next_v
        tl.store(partial_ptr + row[:, None] * D + dims, acc, mask=real)
    # Of splits without slots too: their join then need not wait for the position before it loads.
    tl.store(max_ptr + row, top, mask=tl.arange(0, BLOCK_G) < GROUP)
    tl.store(sum_ptr + row, total, mask=tl.arange(0, BLOCK_G) < GROUP)


@triton.jit
def combine_kernel(
    partial_ptr: tl.tensor,
    max_ptr: tl.tensor,
    sum_ptr: tl.tensor,
    out_ptr: tl.tensor,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Write the attention [H, D], bf16, from the partials of the splits that hold slots; one program per head."""
    head = tl.program_id(0)
    release_dependents(PDL)
    wait_for_previous(PDL)
    splits = tl.arange(0, BLOCK_SPLITS)
    real = splits < SPLITS
    row = head * SPLITS + splits
    dims = tl.arange(0, D)
    partial = tl.load(partial_ptr + row[:, None] * D + dims[None, :], mask=real[:, None], other=0.0)
    tops = tl.load(max_ptr + row, mask=real, other=float("-inf"))
    sums = tl.load(sum_ptr + row, mask=real, other=0.0)
    weights = tl.exp2(tops - tl.max(tops, axis=0))
    # Splits without slots left no partial: whatever lies there must not count, a NaN least of all.
    partial = tl.where((weights > 0)[:, None], partial * weights[:, None], 0.0)
    out = tl.sum(partial, axis=0) / tl.sum(sums * weights, axis=0)
    tl.store(out_ptr + head * D + dims, out.to(out_ptr.dtype.element_ty))


@triton.jit
def _load_slots(
    base_ptr: tl.tensor, slot: tl.tensor, bound: tl.tensor, D: tl.constexpr, BLOCK_S: tl.constexpr
) -> tl.tensor:
    slots = slot + tl.arange(0, BLOCK_S)[:, None]
    return tl.load(base_ptr + slots * D + tl.arange(0, D)[None, :], mask=slots < bound, other=0.0)


@triton.jit
def _normed(
    x: tl.tensor,
    x_swapped: tl.tensor,
    norm_ptr: tl.tensor,
    dims: tl.tensor,
    swapped: tl.tensor,
    D: tl.constexpr,
    EPS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Norm heads [any, D], and the same heads with their halves swapped, by their root mean square."""
    scale = tl.rsqrt(tl.sum(x * x, axis=1) / D + EPS)[:, None]
    straight = x * scale * tl.load(norm_ptr + dims).to(tl.float32)
    return straight, x_swapped * scale * tl.load(norm_ptr + swapped).to(tl.float32)
