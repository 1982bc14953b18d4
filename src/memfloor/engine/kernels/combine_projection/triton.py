"""The splits of attention joined per head and multiplied by that head's columns of the O projection."""

import triton
import triton.language as tl

from memfloor.engine.kernels.dependency import release_dependents, wait_after_constants, wait_before_constants

# Below every score, and finite: the difference of two is a number.
NO_SCORE = tl.constexpr(-1e30)


@triton.jit
def combine_projection_kernel(
    position_ptr: tl.tensor,
    partial_ptr: tl.tensor,
    max_ptr: tl.tensor,
    sum_ptr: tl.tensor,
    w_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    residual_ptr: tl.tensor,
    norm_weight_ptr: tl.tensor,
    normed_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    product_ptr: tl.tensor,
    ticket_ptr: tl.tensor,
    N: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    SPLITS: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """Add W [N, HEADS * D] x attention [HEADS * D] + bias [N] to the residual [N], float32, in place.

    Also write what the next norm needs, as `projection_kernel` does. The attention is joined here, float32, from the
    partials [HEADS, SPLITS, D], maxima and sums [HEADS, SPLITS] of `attention_kernel`. The grid is row tiles * HEADS:
    a program takes BLOCK_N rows of one head's columns. All programs of a head join it again, so the rows of one
    should be many. The last program of a row tile to arrive adds the products [HEADS, N] in fixed order.
    """
    tile = tl.program_id(0) // HEADS
    head = tl.program_id(0) % HEADS
    rows = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    release_dependents(PDL)
    wait_before_constants(PDL)
    # Before the wait the position may still be the previous step's: allow for one slot more.
    bound = tl.load(position_ptr, volatile=True) + 1
    w = _load_head_columns(w_ptr, rows, head, N, HEADS, D, BLOCK_D)
    wait_after_constants(PDL)
    x = _join_splits(position_ptr, bound, partial_ptr, max_ptr, sum_ptr, head, D, BLOCK_S, SPLITS, CHUNK)
    # A gather of everything in order: without it the compiler lays the weights out as the partials are.
    x = tl.gather(x, tl.arange(0, D), axis=0)
    products = w.to(tl.float32) * tl.reshape(x, (1, D // BLOCK_D, BLOCK_D))
    out = tl.sum(tl.sum(products, axis=1), axis=1)
    tl.store(product_ptr + head * N + rows, out, mask=rows < N)
    # Every lane's product must be written before the ticket that announces it.
    tl.debug_barrier()
    arrived = tl.atomic_add(ticket_ptr + tile, 1, sem="acq_rel", scope="gpu")
    if arrived == HEADS - 1:
        heads = tl.arange(0, BLOCK_HEADS)[:, None]
        mask = (heads < HEADS) & (rows < N)[None, :]
        terms = tl.load(product_ptr + heads * N + rows[None, :], mask=mask, other=0.0, cache_modifier=".cg")
        # Before the sum, so that their loads do not wait for it.
        residual = tl.load(residual_ptr + rows, mask=rows < N, other=0.0)
        norm_weight = tl.load(norm_weight_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
        if HAS_BIAS:
            residual += tl.load(bias_ptr + rows, mask=rows < N, other=0.0).to(tl.float32)
        out = residual + tl.sum(terms, axis=0)
        tl.store(residual_ptr + rows, out, mask=rows < N)
        tl.store(normed_ptr + rows, (out * norm_weight).to(normed_ptr.dtype.element_ty), mask=rows < N)
        tl.store(sums_ptr + tile, tl.sum(out * out, axis=0))
        tl.store(ticket_ptr + tile, 0)


@triton.jit
def _load_head_columns(
    w_ptr: tl.tensor,
    rows: tl.tensor,
    head: tl.tensor,
    N: tl.constexpr,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> tl.tensor:
    """Load one head's columns of some rows as [rows, D // BLOCK_D, BLOCK_D]; zeros beyond N.

    Lanes lie along the rows and the last axis: a row's product is summed over few of them. Over all D columns the
    shuffles would take longer than the products.
    """
    starts = rows.to(tl.int64)[:, None, None] * (HEADS * D) + head * D
    columns = tl.arange(0, D // BLOCK_D)[None, :, None] * BLOCK_D + tl.arange(0, BLOCK_D)[None, None, :]
    mask = (rows < N)[:, None, None]
    return tl.load(w_ptr + starts + columns, mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _join_splits(
    position_ptr: tl.tensor,
    bound: tl.tensor,
    partial_ptr: tl.tensor,
    max_ptr: tl.tensor,
    sum_ptr: tl.tensor,
    head: tl.tensor,
    D: tl.constexpr,
    BLOCK_S: tl.constexpr,
    SPLITS: tl.constexpr,
    CHUNK: tl.constexpr,
) -> tl.tensor:
    """Return the attention [D], float32, of a head from the splits that hold slots.

    The splits are taken CHUNK at a time, each place of a chunk with a maximum of its own, so that the lanes meet
    only once, at the end. No load waits for the position: `bound`, a slot not below it, limits them.
    """
    position = tl.load(position_ptr, volatile=True)
    loaded = tl.minimum(bound // BLOCK_S + 1, SPLITS)
    used = tl.minimum(position // BLOCK_S + 1, SPLITS)
    dims = tl.arange(0, D)[None, :]
    top = tl.full((CHUNK,), NO_SCORE, dtype=tl.float32)
    total = tl.zeros((CHUNK,), dtype=tl.float32)
    acc = tl.zeros((CHUNK, D), dtype=tl.float32)
    for first in tl.static_range(0, SPLITS, CHUNK):
        splits = first + tl.arange(0, CHUNK)
        row = head * SPLITS + splits
        tops = tl.load(max_ptr + row, mask=splits < loaded, other=NO_SCORE)
        sums = tl.load(sum_ptr + row, mask=splits < loaded, other=0.0)
        partial = tl.load(partial_ptr + row[:, None] * D + dims, mask=(splits < loaded)[:, None], other=0.0)
        # What a split beyond the position holds is old and may not even be a number.
        held = splits < used
        tops = tl.where(held, tops, NO_SCORE)
        new_top = tl.maximum(top, tops)
        decay = tl.exp2(top - new_top)
        weights = tl.exp2(tops - new_top)
        total = total * decay + tl.where(held, sums * weights, 0.0)
        acc = acc * decay[:, None] + tl.where(held[:, None], partial * weights[:, None], 0.0)
        top = new_top
    weights = tl.exp2(top - tl.max(top, axis=0))
    return tl.sum(acc * weights[:, None], axis=0) / tl.sum(total * weights, axis=0)
