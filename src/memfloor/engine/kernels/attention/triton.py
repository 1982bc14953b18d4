"""Split-KV attention of one token, with QK norm, RoPE and the KV append in front."""

import triton
import triton.language as tl

from memfloor.engine.kernels.dependency import release_dependents, wait_after_constants, wait_before_constants


@triton.jit
def attention_kernel(
    qkv_ptr: tl.tensor,
    position_ptr: tl.tensor,
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
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
    The grid is HKV * SPLITS; split s of a KV head takes blocks s, s + SPLITS, … of BLOCK_S slots. Split 0 also
    takes the current token, straight from qkv, and appends it to the cache. Partials are combined in fixed
    order by whichever program arrives last, told by a ticket [HKV] that it resets. SCALE includes log2(e).
    """
    head = tl.program_id(0) % HKV
    split = tl.program_id(0) // HKV
    release_dependents(PDL)
    wait_before_constants(PDL)
    dims = tl.arange(0, D)
    k_base = k_cache_ptr + head * (MAX_LEN * D)
    v_base = v_cache_ptr + head * (MAX_LEN * D)
    # Before the wait the position may be the previous step's, so this bound may be one slot short.
    bound = tl.load(position_ptr, volatile=True) + 1
    k = _load_slots(k_base, split * BLOCK_S, tl.minimum(bound, MAX_LEN), D, BLOCK_S)
    v = _load_slots(v_base, split * BLOCK_S, tl.minimum(bound, MAX_LEN), D, BLOCK_S)
    wait_after_constants(PDL)
    position = tl.load(position_ptr, volatile=True)
    num_blocks = tl.cdiv(position, BLOCK_S)
    active = tl.maximum(tl.minimum(num_blocks, SPLITS), 1)
    if split < active:
        heads = tl.arange(0, BLOCK_G)
        q = _rotated(
            qkv_ptr + head * (GROUP * D), heads, GROUP, q_norm_ptr, cos_ptr, sin_ptr, position, D, QK_NORM, EPS
        )
        q = (q * SCALE).to(DOT_TYPE)
        one = tl.arange(0, 1)
        new_k = _rotated(
            qkv_ptr + (HKV * GROUP + head) * D, one, 1, k_norm_ptr, cos_ptr, sin_ptr, position, D, QK_NORM, EPS
        )
        new_v = tl.load(qkv_ptr + (HKV * GROUP + HKV + head) * D + one[:, None] * D + dims[None, :])
        new_k = new_k.to(k_cache_ptr.dtype.element_ty)
        new_v = new_v.to(v_cache_ptr.dtype.element_ty)
        if split == 0:
            slot = position * D + dims[None, :]
            tl.store(k_base + slot, new_k)
            tl.store(v_base + slot, new_v)
        new_score = tl.sum(q.to(tl.float32) * new_k.to(tl.float32), axis=1)
        top = tl.where(split == 0, new_score, float("-inf"))
        total = tl.where(split == 0, 1.0, 0.0) + tl.zeros((BLOCK_G,), dtype=tl.float32)
        acc = tl.where(split == 0, new_v.to(tl.float32), 0.0) + tl.zeros((BLOCK_G, D), dtype=tl.float32)
        for block in range(split, num_blocks, SPLITS):
            valid = block * BLOCK_S + tl.arange(0, BLOCK_S) < position
            scores = tl.dot(q, tl.trans(k.to(DOT_TYPE)))
            scores = tl.where(valid[None, :], scores, float("-inf"))
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
        tl.store(partial_ptr + row[:, None] * D + dims[None, :], acc, mask=real[:, None])
        # Every lane's partial must be written before the ticket that announces it.
        tl.debug_barrier()
        arrived = tl.atomic_add(ticket_ptr + head, 1, sem="acq_rel", scope="gpu")
        if arrived == active - 1:
            out = _combine(
                partial_ptr, max_ptr, sum_ptr, head, active, GROUP, BLOCK_G, D, SPLITS, BLOCK_SPLITS, COMBINE
            )
            out_row = (head * GROUP + heads)[:, None] * D + dims[None, :]
            tl.store(out_ptr + out_row, out.to(out_ptr.dtype.element_ty), mask=real[:, None])
            tl.store(ticket_ptr + head, 0)


@triton.jit
def _load_slots(
    base_ptr: tl.tensor, slot: tl.tensor, bound: tl.tensor, D: tl.constexpr, BLOCK_S: tl.constexpr
) -> tl.tensor:
    slots = slot + tl.arange(0, BLOCK_S)[:, None]
    return tl.load(base_ptr + slots * D + tl.arange(0, D)[None, :], mask=slots < bound, other=0.0)


@triton.jit
def _rotated(
    rows_ptr: tl.tensor,
    heads: tl.tensor,
    NUM_HEADS: tl.constexpr,
    norm_ptr: tl.tensor,
    cos_ptr: tl.tensor,
    sin_ptr: tl.tensor,
    position: tl.tensor,
    D: tl.constexpr,
    QK_NORM: tl.constexpr,
    EPS: tl.constexpr,
) -> tl.tensor:
    """Load heads [NUM_HEADS, D], norm each if asked, and rotate the halves by the position's angles."""
    dims = tl.arange(0, D)[None, :]
    other_half = (dims + D // 2) % D
    mask = heads[:, None] < NUM_HEADS
    x = tl.load(rows_ptr + heads[:, None] * D + dims, mask=mask, other=0.0)
    partner = tl.load(rows_ptr + heads[:, None] * D + other_half, mask=mask, other=0.0)
    if QK_NORM:
        scale = tl.rsqrt(tl.sum(x * x, axis=1) / D + EPS)[:, None]
        x = x * scale * tl.load(norm_ptr + dims).to(tl.float32)
        partner = partner * scale * tl.load(norm_ptr + other_half).to(tl.float32)
    angle = position * (D // 2) + dims % (D // 2)
    signed = tl.where(dims < D // 2, -partner, partner)
    return x * tl.load(cos_ptr + angle) + signed * tl.load(sin_ptr + angle)


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
