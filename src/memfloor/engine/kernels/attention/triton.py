"""Split-KV attention of one token, with QK norm, RoPE and the KV append in front."""

import triton
import triton.language as tl

from memfloor.engine.kernels.dependency import release_dependents, wait_after_constants, wait_before_constants


@triton.jit
def attention_kernel(
    qkv_ptr: tl.tensor,
    position_ptr: tl.tensor,
    rope_row_ptr: tl.tensor,
    q_norm_ptr: tl.tensor,
    k_norm_ptr: tl.tensor,
    k_cache_ptr: tl.tensor,
    v_cache_ptr: tl.tensor,
    out_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    max_ptr: tl.tensor,
    sum_ptr: tl.tensor,
    ticket_ptr: tl.tensor,
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
    BLOCK_SPLITS: tl.constexpr,
    COMBINE: tl.constexpr,
    DOT_TYPE: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Attend from one token at `position` to slots [0, position] of a cache [HKV, MAX_LEN, D] each for K and V.

    qkv holds raw projections, float32: Q [HKV, GROUP, D], K [HKV, D], V [HKV, D]. out is bf16 [HKV, GROUP, D].
    The grid is HKV * SPLITS; split s of a KV head takes blocks s, s + SPLITS, … of BLOCK_S slots. The token's own
    key and value come straight from qkv; the program whose block they fall into appends them to the cache.
    Partials are combined in fixed order by whichever program arrives last, told by a ticket [HKV] that it resets.
    rope_row is the position's cosines, then its signed sines [2, D]. SCALE includes log2(e).
    """
    head = tl.program_id(0) % HKV
    split = tl.program_id(0) // HKV
    release_dependents(PDL)
    wait_before_constants(PDL)
    dims = tl.arange(0, D)[None, :]
    k_base = k_cache_ptr + head * (MAX_LEN * D)
    v_base = v_cache_ptr + head * (MAX_LEN * D)
    # Before the wait the position may still be the previous step's: allow for one slot more.
    bound = tl.minimum(tl.load(position_ptr, volatile=True) + 1, MAX_LEN)
    k = _load_slots(k_base, split * BLOCK_S, bound, D, BLOCK_S)
    v = _load_slots(v_base, split * BLOCK_S, bound, D, BLOCK_S)
    wait_after_constants(PDL)
    # All dependent loads start together; only then is anything computed.
    position = tl.load(position_ptr, volatile=True)
    heads = tl.arange(0, BLOCK_G)
    q_halves = _load_heads(qkv_ptr + head * (GROUP * D), heads, GROUP, D)
    k_halves = _load_heads(qkv_ptr + (HKV * GROUP + head) * D, tl.arange(0, 1), 1, D)
    v_row = tl.load(qkv_ptr + (HKV * GROUP + HKV + head) * D + dims)
    angles = tl.load(rope_row_ptr + tl.arange(0, 2)[:, None, None] * D + tl.arange(0, D)[None, None, :])
    num_blocks = position // BLOCK_S + 1
    active = tl.minimum(num_blocks, SPLITS)
    if split < active:
        q = _normed_rotated(q_halves, q_norm_ptr, angles, D, QK_NORM, EPS)
        q = (q * SCALE).to(DOT_TYPE)
        new_k = _normed_rotated(k_halves, k_norm_ptr, angles, D, QK_NORM, EPS)
        new_k = new_k.to(k_cache_ptr.dtype.element_ty)
        new_v = v_row.to(v_cache_ptr.dtype.element_ty)
        if split == (num_blocks - 1) % SPLITS:
            tl.store(k_base + position * D + dims, new_k)
            tl.store(v_base + position * D + dims, new_v)
        top = tl.full((BLOCK_G,), float("-inf"), dtype=tl.float32)
        total = tl.zeros((BLOCK_G,), dtype=tl.float32)
        acc = tl.zeros((BLOCK_G, D), dtype=tl.float32)
        for block in range(split, num_blocks, SPLITS):
            slots = block * BLOCK_S + tl.arange(0, BLOCK_S)
            is_new = (slots == position)[:, None]
            k = tl.where(is_new, new_k, k)
            v = tl.where(is_new, new_v, v)
            scores = tl.dot(q, tl.trans(k.to(DOT_TYPE)))
            scores = tl.where((slots <= position)[None, :], scores, float("-inf"))
            new_top = tl.maximum(top, tl.max(scores, axis=1))
            weights = tl.exp2(scores - new_top[:, None])
            decay = tl.exp2(top - new_top)
            total = total * decay + tl.sum(weights, axis=1)
            acc = acc * decay[:, None] + tl.dot(weights.to(DOT_TYPE), v.to(DOT_TYPE))
            top = new_top
            k = _load_slots(k_base, (block + SPLITS) * BLOCK_S, position, D, BLOCK_S)
            v = _load_slots(v_base, (block + SPLITS) * BLOCK_S, position, D, BLOCK_S)
        real = heads < GROUP
        row = (head * SPLITS + split) * GROUP + heads
        tl.store(max_ptr + row, top, mask=real)
        tl.store(sum_ptr + row, total, mask=real)
        tl.store(partial_ptr + row[:, None] * D + dims, acc, mask=real[:, None])
        # Every lane's partial must be written before the ticket that announces it.
        tl.debug_barrier()
        arrived = tl.atomic_add(ticket_ptr + head, 1, sem="acq_rel", scope="gpu")
        if arrived == active - 1:
            out = _combine(
                partial_ptr, max_ptr, sum_ptr, head, active, GROUP, BLOCK_G, D, SPLITS, BLOCK_SPLITS, COMBINE
            )
            out_row = (head * GROUP + heads)[:, None] * D + dims
            tl.store(out_ptr + out_row, out.to(out_ptr.dtype.element_ty), mask=real[:, None])
            tl.store(ticket_ptr + head, 0)


@triton.jit
def _load_slots(
    base_ptr: tl.tensor, slot: tl.tensor, bound: tl.tensor, D: tl.constexpr, BLOCK_S: tl.constexpr
) -> tl.tensor:
    slots = slot + tl.arange(0, BLOCK_S)[:, None]
    return tl.load(base_ptr + slots * D + tl.arange(0, D)[None, :], mask=slots < bound, other=0.0)


@triton.jit
def _load_heads(rows_ptr: tl.tensor, heads: tl.tensor, NUM_HEADS: tl.constexpr, D: tl.constexpr) -> tl.tensor:
    """Load heads [2, NUM_HEADS, D]: as they are, then with their halves swapped."""
    mask = heads[None, :, None] < NUM_HEADS
    return tl.load(rows_ptr + heads[None, :, None] * D + _straight_and_swapped(D), mask=mask, other=0.0)


@triton.jit
def _straight_and_swapped(D: tl.constexpr) -> tl.tensor:
    return (tl.arange(0, D)[None, None, :] + tl.arange(0, 2)[:, None, None] * (D // 2)) % D


@triton.jit
def _normed_rotated(
    halves: tl.tensor,
    norm_ptr: tl.tensor,
    angles: tl.tensor,
    D: tl.constexpr,
    QK_NORM: tl.constexpr,
    EPS: tl.constexpr,
) -> tl.tensor:
    """Norm heads [2, any, D], straight and swapped, if asked, and rotate them by angles [2, 1, D] to [any, D]."""
    if QK_NORM:
        scale = tl.rsqrt(tl.sum(halves * halves, axis=2) / D + EPS)[:, :, None]
        halves = halves * scale * tl.load(norm_ptr + _straight_and_swapped(D)).to(tl.float32)
    return tl.sum(halves * angles, axis=0)


@triton.jit
def _combine(
    partial_ptr: tl.tensor,
    max_ptr: tl.tensor,
    sum_ptr: tl.tensor,
    head: tl.tensor,
    active: tl.tensor,
    GROUP: tl.constexpr,
    BLOCK_G: tl.constexpr,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    COMBINE: tl.constexpr,
) -> tl.tensor:
    """Return the attention [BLOCK_G, D] of one KV head from the partials of its active splits."""
    heads = tl.arange(0, BLOCK_G)
    splits = tl.arange(0, BLOCK_SPLITS)
    row = (head * SPLITS + splits)[:, None] * GROUP + heads[None, :]
    mask = (splits < active)[:, None] & (heads < GROUP)[None, :]
    tops = tl.load(max_ptr + row, mask=mask, other=float("-inf"), cache_modifier=".cg")
    totals = tl.load(sum_ptr + row, mask=mask, other=0.0, cache_modifier=".cg")
    top = tl.max(tops, axis=0)
    # Rows beyond the group hold no numbers at all.
    top = tl.where(heads < GROUP, top, 0.0)
    total = tl.sum(totals * tl.exp2(tops - top[None, :]), axis=0)
    acc = tl.zeros((BLOCK_G, D), dtype=tl.float32)
    for first in range(0, active, COMBINE):
        some = first + tl.arange(0, COMBINE)
        some_row = (head * SPLITS + some)[:, None] * GROUP + heads[None, :]
        some_mask = (some < active)[:, None] & (heads < GROUP)[None, :]
        some_tops = tl.load(max_ptr + some_row, mask=some_mask, other=float("-inf"), cache_modifier=".cg")
        weights = tl.exp2(some_tops - top[None, :])
        part = tl.load(
            partial_ptr + some_row[:, :, None] * D + tl.arange(0, D)[None, None, :],
            mask=some_mask[:, :, None],
            other=0.0,
            cache_modifier=".cg",
        )
        acc += tl.sum(part * weights[:, :, None], axis=0)
    return acc / tl.where(heads < GROUP, total, 1.0)[:, None]
