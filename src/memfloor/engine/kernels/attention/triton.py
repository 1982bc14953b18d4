"""Split-KV attention of one token to the past, then the sum over the splits and the token itself, which is appended."""

import triton
import triton.language as tl

from memfloor.engine.kernels.dependency import (
    release_dependents,
    wait_after_constants,
    wait_before_constants,
    wait_for_previous,
)

# Below every score, and a number: what is below it by any amount has a weight of zero and not NaN.
LOWEST = tl.constexpr(-3.0e38)


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
    WINDOW: tl.constexpr,
    DOT_TYPE: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Attend from one token to each split of the slots before its position in a cache [HKV, MAX_LEN, D], bf16 or fp8.

    With a WINDOW only its last WINDOW - 1 slots are read, all with 0; the token itself is the window's last.
    heads begins with the rotated queries [HKV, GROUP, D], float32, times the softmax's scale and log2(e); with QK_NORM
    their squares [HKV, GROUP, D / 2] give the norms that they lack. The grid is HKV * SPLITS; split s of a KV head
    takes those blocks of BLOCK_S slots whose number is s modulo SPLITS. Each split leaves its greatest score and sum of
    weights [HKV, GROUP, SPLITS], LOWEST and zero if it has no slots, and those with slots their partial [HKV, GROUP,
    SPLITS, D].
    """
    head = tl.program_id(0) % HKV
    split = tl.program_id(0) // HKV
    release_dependents(PDL)
    wait_before_constants(PDL)
    k_base = k_cache_ptr + head * (MAX_LEN * D)
    v_base = v_cache_ptr + head * (MAX_LEN * D)
    # Before the wait the position may still be the previous step's: allow for one slot more at either end.
    early = tl.load(position_ptr, volatile=True)
    low = _window_start(early, WINDOW)
    first = _first_block(low, split, BLOCK_S, SPLITS, WINDOW)
    bound = tl.minimum(early + 1, MAX_LEN)
    k = _load_slots(k_base, first * BLOCK_S, low, bound, D, BLOCK_S, WINDOW)
    v = _load_slots(v_base, first * BLOCK_S, low, bound, D, BLOCK_S, WINDOW)
    wait_after_constants(PDL)
    position = tl.load(position_ptr, volatile=True)
    group = tl.arange(0, BLOCK_G)
    real = group < GROUP
    query = head * GROUP + group
    dims = tl.arange(0, D)[None, :]
    q = tl.load(heads_ptr + query[:, None] * D + dims, mask=real[:, None], other=0.0)
    if QK_NORM:
        q *= head_norm(squares_ptr + query[:, None] * (D // 2), real[:, None], D, EPS)[:, None]
    q = _rounded(q, DOT_TYPE)
    low = _window_start(position, WINDOW)
    num_blocks = (position + BLOCK_S - 1) // BLOCK_S
    row = query * SPLITS + split
    top = tl.full((BLOCK_G,), LOWEST, dtype=tl.float32)
    total = tl.zeros((BLOCK_G,), dtype=tl.float32)
    if first < num_blocks:
        acc = tl.zeros((BLOCK_G, D), dtype=tl.float32)
        slots = first * BLOCK_S + tl.arange(0, BLOCK_S)
        # A slot that was loaded and is not to be seen must not be able to hold a NaN.
        if (first + 1) * BLOCK_S > position or first * BLOCK_S < low:
            v = tl.where(_seen(slots, low, position, WINDOW)[:, None], v, 0.0)
        for block in range(first, num_blocks, SPLITS):
            next_k = _load_slots(k_base, (block + SPLITS) * BLOCK_S, low, position, D, BLOCK_S, WINDOW)
            next_v = _load_slots(v_base, (block + SPLITS) * BLOCK_S, low, position, D, BLOCK_S, WINDOW)
            slots = block * BLOCK_S + tl.arange(0, BLOCK_S)
            scores = tl.dot(q, tl.trans(k.to(DOT_TYPE)))
            scores = tl.where(_seen(slots, low, position, WINDOW)[None, :], scores, float("-inf"))
            new_top = tl.maximum(top, tl.max(scores, axis=1))
            weights = tl.exp2(scores - new_top[:, None])
            decay = tl.exp2(top - new_top)
            total = total * decay + tl.sum(weights, axis=1)
            acc = acc * decay[:, None] + tl.dot(weights.to(DOT_TYPE), v.to(DOT_TYPE))
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
    DOT_TYPE: tl.constexpr,
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
    tops = tl.load(max_ptr + row, mask=real, other=LOWEST)
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
    score = tl.sum(_rounded(query, DOT_TYPE).to(tl.float32) * key.to(tl.float32), axis=0)
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
def _rounded(query: tl.tensor, TYPE: tl.constexpr) -> tl.tensor:
    """Return queries as products take them; what is beyond float16's greatest number becomes that."""
    if tl.float16 == TYPE:
        query = tl.clamp(query, -65504.0, 65504.0, propagate_nan=tl.PropagateNan.ALL)
    return query.to(TYPE)


@triton.jit
def _window_start(position: tl.tensor, WINDOW: tl.constexpr) -> tl.tensor:
    """Return the first slot that a token at a position sees."""
    if WINDOW == 0:
        return 0
    return tl.maximum(position + 1 - WINDOW, 0)


@triton.jit
def _first_block(
    low: tl.tensor, split: tl.tensor, BLOCK_S: tl.constexpr, SPLITS: tl.constexpr, WINDOW: tl.constexpr
) -> tl.tensor:
    """Return the first block of a split that reaches beyond slot `low`."""
    if WINDOW == 0:
        return split
    lowest = low // BLOCK_S
    return lowest + (split + SPLITS - lowest % SPLITS) % SPLITS


@triton.jit
def _seen(slots: tl.tensor, low: tl.tensor, bound: tl.tensor, WINDOW: tl.constexpr) -> tl.tensor:
    """Tell which slots lie in [low, bound); without a WINDOW `low` is 0."""
    seen = slots < bound
    if WINDOW > 0:
        seen = seen & (slots >= low)
    return seen


@triton.jit
def _load_slots(
    base_ptr: tl.tensor,
    slot: tl.tensor,
    low: tl.tensor,
    bound: tl.tensor,
    D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    WINDOW: tl.constexpr,
) -> tl.tensor:
    """Load the slots [BLOCK_S, D] from `slot` on that lie in [low, bound); zeros elsewhere."""
    slots = slot + tl.arange(0, BLOCK_S)[:, None]
    mask = _seen(slots, low, bound, WINDOW)
    return tl.load(base_ptr + slots * D + tl.arange(0, D)[None, :], mask=mask, other=0.0)
