"""Split-KV attention of one token to the past, then the sum over the splits and the token itself, which is appended."""

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
    heads_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    position_ptr: tl.tensor,
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
    BLOCK_S: tl.constexpr,
    SPLITS: tl.constexpr,
    DOT_TYPE: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Attend from one token to each split of the slots before its position in a cache [HKV, MAX_LEN, D], bf16 or fp8.

    heads begins with the rotated queries [HKV, GROUP, D], float32, times the softmax's scale and log2(e); with QK_NORM
    their squares [HKV, GROUP, D / 2] give the norms that they lack. The grid is HKV * SPLITS; split s of a KV head
    takes blocks s, s + SPLITS, … of BLOCK_S slots. Each split leaves its greatest score and sum of weights [HKV, GROUP,
    SPLITS], minus infinity and zero if it has no slots, and those with slots their partial [HKV, GROUP, SPLITS, D].
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
    position = tl.load(position_ptr, volatile=True)
    group = tl.arange(0, BLOCK_G)
    real = group < GROUP
    query = head * GROUP + group
    dims = tl.arange(0, D)[None, :]
    q = tl.load(heads_ptr + query[:, None] * D + dims, mask=real[:, None], other=0.0)
    if QK_NORM:
        q *= head_norm(squares_ptr + query[:, None] * (D // 2), real[:, None], D, EPS)[:, None]
    q = q.to(DOT_TYPE)
    num_blocks = (position + BLOCK_S - 1) // BLOCK_S
    row = query * SPLITS + split
    top = tl.full((BLOCK_G,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_G,), dtype=tl.float32)
    if split < num_blocks:
        acc = tl.zeros((BLOCK_G, D), dtype=tl.float32)
        for block in range(split, num_blocks, SPLITS):
            next_k = _load_slots(k_base, (block + SPLITS) * BLOCK_S, position, D, BLOCK_S)
            next_v = _load_slots(v_base, (block + SPLITS) * BLOCK_S, position, D, BLOCK_S)
            slots = block * BLOCK_S + tl.arange(0, BLOCK_S)
            values = v.to(DOT_TYPE)
            if (block + 1) * BLOCK_S > position:
                # A slot that was loaded and is not to be seen must not be able to hold a NaN.
                values = tl.where((slots < position)[:, None], values, 0.0)
            scores = tl.dot(q, tl.trans(k.to(DOT_TYPE)))
            scores = tl.where((slots < position)[None, :], scores, float("-inf"))
            new_top = tl.maximum(top, tl.max(scores, axis=1))
            weights = tl.exp2(scores - new_top[:, None])
            decay = tl.exp2(top - new_top)
            total = total * decay + tl.sum(weights, axis=1)
            acc = acc * decay[:, None] + tl.dot(weights.to(DOT_TYPE), values)
            top = new_top
            k = next_k
            v = next_v
        tl.store(partial_ptr + row[:, None] * D + dims, acc, mask=real[:, None])
    # Of splits without slots too: their join then need not wait for the position before it loads.
    tl.store(max_ptr + row, top, mask=real)
    tl.store(sum_ptr + row, total, mask=real)


@triton.jit
def combine_kernel(
    heads_ptr: tl.tensor,
    squares_ptr: tl.tensor,
    position_ptr: tl.tensor,
    k_cache_ptr: tl.tensor,
    v_cache_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    max_ptr: tl.tensor,
    sum_ptr: tl.tensor,
    out_ptr: tl.tensor,
    H: tl.constexpr,
    HKV: tl.constexpr,
    D: tl.constexpr,
    MAX_LEN: tl.constexpr,
    QK_NORM: tl.constexpr,
    EPS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Write the attention [H, D], bf16, from the splits' partials and the token's own key and value.

    One program per head; the first of those that share a KV head appends its key and value to the cache at `position`.
    heads is all of [H + 2 HKV, D], and squares [H + HKV, D / 2].
    """
    head = tl.program_id(0)
    kv_head = head // (H // HKV)
    release_dependents(PDL)
    wait_for_previous(PDL)
    splits = tl.arange(0, BLOCK_SPLITS)
    real = splits < SPLITS
    row = head * SPLITS + splits
    dims = tl.arange(0, D)
    partial = tl.load(partial_ptr + row[:, None] * D + dims[None, :], mask=real[:, None], other=0.0)
    tops = tl.load(max_ptr + row, mask=real, other=float("-inf"))
    sums = tl.load(sum_ptr + row, mask=real, other=0.0)
    query = tl.load(heads_ptr + head * D + dims)
    key = tl.load(heads_ptr + (H + kv_head) * D + dims)
    value = tl.load(heads_ptr + (H + HKV + kv_head) * D + dims).to(v_cache_ptr.dtype.element_ty)
    slot = kv_head * (MAX_LEN * D) + tl.load(position_ptr, volatile=True) * D
    if QK_NORM:
        query *= tl.sum(head_norm(squares_ptr + head * (D // 2), tl.full((1, 1), 1, tl.int1), D, EPS), axis=0)
        key *= tl.sum(head_norm(squares_ptr + (H + kv_head) * (D // 2), tl.full((1, 1), 1, tl.int1), D, EPS), axis=0)
    key = key.to(k_cache_ptr.dtype.element_ty)
    if head % (H // HKV) == 0:
        tl.store(k_cache_ptr + slot + dims, key)
        tl.store(v_cache_ptr + slot + dims, value)
    # The query as the splits' products take it.
    score = tl.sum(query.to(out_ptr.dtype.element_ty).to(tl.float32) * key.to(tl.float32), axis=0)
    top = tl.maximum(tl.max(tops, axis=0), score)
    weights = tl.exp2(tops - top)
    own = tl.exp2(score - top)
    # Splits without slots left no partial: whatever lies there must not count, a NaN least of all.
    partial = tl.where((weights > 0)[:, None], partial * weights[:, None], 0.0)
    out = (tl.sum(partial, axis=0) + own * value.to(tl.float32)) / (tl.sum(sums * weights, axis=0) + own)
    tl.store(out_ptr + head * D + dims, out.to(out_ptr.dtype.element_ty))


@triton.jit
def head_norm(squares_ptr: tl.tensor, real: tl.tensor, D: tl.constexpr, EPS: tl.constexpr) -> tl.tensor:
    """Return 1 / rms of heads from pointers [any, 1] to the squares [D / 2] of their pairs, where they are real."""
    squares = tl.load(squares_ptr + tl.arange(0, D // 2)[None, :], mask=real, other=0.0)
    return tl.rsqrt(tl.sum(squares, axis=1) / D + EPS)


@triton.jit
def _load_slots(
    base_ptr: tl.tensor, slot: tl.tensor, bound: tl.tensor, D: tl.constexpr, BLOCK_S: tl.constexpr
) -> tl.tensor:
    slots = slot + tl.arange(0, BLOCK_S)[:, None]
    return tl.load(base_ptr + slots * D + tl.arange(0, D)[None, :], mask=slots < bound, other=0.0)
