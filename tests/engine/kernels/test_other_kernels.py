"""Attention, embedding, sampling and streaming kernels against their references."""

import pytest
import torch
from triton.runtime.interpreter import InterpreterBuilder

from memfloor.engine.cuda import calls
from memfloor.engine.cuda.launch_shapes import AttentionShape
from memfloor.engine.kernels.attention.reference import attention, combine
from memfloor.engine.kernels.embed.reference import embed
from memfloor.engine.kernels.qkv.reference import turned
from memfloor.engine.kernels.sample.reference import sample
from memfloor.engine.kernels.stream.reference import stream

# Between neighbouring numbers of a format, at most.
BF16_STEP, FP8_STEP = 2.0**-7, 2.0**-3
LOG2_E = 1.4426950408889634
HEADS, KV_HEADS, HEAD_DIM, MAX_LEN = 6, 2, 32, 75


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def angles() -> tuple[torch.Tensor, torch.Tensor]:
    turns = torch.outer(torch.arange(MAX_LEN), 0.7 ** torch.arange(HEAD_DIM // 2))
    return turns.cos(), turns.sin()


def poisoned(size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full((size,), float("nan"), dtype=dtype)


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("position", [0, 15, 16, 40, 74])
def test_attention_matches_its_reference_and_appends(position, normed):
    check_attention(HEADS, position, normed)


def test_more_query_heads_than_one_tile_of_a_product_may_share_a_kv_head():
    check_attention(20 * KV_HEADS, 40, normed=False)


@pytest.mark.parametrize("position", [0, 40, 74])
@pytest.mark.usefixtures("exact_fp8")
def test_attention_over_an_fp8_cache_matches_its_reference_and_appends(position):
    check_attention(HEADS, position, normed=False, kv=torch.float8_e4m3fn)


# Of one slot, within a block, of whole blocks, over their edges, and beyond the cache.
@pytest.mark.parametrize("window", [1, 5, 16, 17, 33, 75, 100])
@pytest.mark.parametrize("position", [0, 4, 16, 31, 33, 74])
def test_a_window_hides_what_lies_before_it(position, window):
    check_attention(HEADS, position, normed=False, window=window)


@pytest.mark.usefixtures("exact_fp8")
def test_a_window_over_an_fp8_cache():
    check_attention(HEADS, 40, normed=True, kv=torch.float8_e4m3fn, window=21)


def check_attention(
    query_heads: int, position: int, normed: bool, kv: torch.dtype = torch.bfloat16, window: int = 0
) -> None:
    step = BF16_STEP if kv == torch.bfloat16 else FP8_STEP
    raw = numbers((query_heads + 2 * KV_HEADS) * HEAD_DIM)
    cache = numbers(2, KV_HEADS, MAX_LEN, HEAD_DIM).to(kv)
    qk_norm = (numbers(HEAD_DIM).bfloat16(), numbers(HEAD_DIM).bfloat16().flip(0)) if normed else None
    want, key, value = attention(raw, position, *angles(), *cache, qk_norm, 1e-6, window)
    # What no step has written yet may hold anything, and so may what a window has left behind.
    cache[:, :, position:] = float("nan")
    if window:
        cache[:, :, : max(0, position + 1 - window)] = float("nan")
    before = cache.clone()
    out = attended(raw, position, cache, qk_norm, window)
    # Queries and weights of the splits are float32 here over bf16, and keep 11 bits over fp8; the result is bf16.
    assert (out.float() - want.flatten()).norm() / want.norm() < BF16_STEP
    torch.testing.assert_close(cache[0, :, position].float(), key, rtol=step, atol=1e-6)
    torch.testing.assert_close(cache[1, :, position].float(), value, rtol=step, atol=1e-6)
    before[:, :, position] = cache[:, :, position]
    assert torch.equal(cache.float().nan_to_num(7.0), before.float().nan_to_num(7.0))


def attended(raw, position, cache, qk_norm=None, window=0) -> torch.Tensor:
    """Return what the kernels attend to from raw heads at a position; the token is appended to the cache."""
    (cos, sin), query_heads = angles(), len(raw) // HEAD_DIM - 2 * KV_HEADS
    values, squares = turned(raw, KV_HEADS, cos[position], sin[position], qk_norm, LOG2_E / HEAD_DIM**0.5)
    heads = calls.Heads(values, squares if qk_norm else None, KV_HEADS, HEAD_DIM)
    shape = AttentionShape(block_s=16, max_splits=2, warps=1)
    rows = query_heads * shape.splits(MAX_LEN)
    scratch = (poisoned(rows * HEAD_DIM), poisoned(rows), poisoned(rows))
    out = poisoned(query_heads * HEAD_DIM, torch.bfloat16)
    options = {"eps": 1e-6, "shape": shape, "pdl": 0, "window": window}
    for call in calls.attention_calls(heads, int32(position), cache, out, scratch, **options):
        call.issue()
    return out


@pytest.mark.parametrize(("position", "window"), [(74, 0), (74, 21), (40, 16), (33, 1), (4, 21)])
def test_no_more_slots_are_read_than_a_token_sees(monkeypatch, position, window):
    cache = numbers(2, KV_HEADS, MAX_LEN, HEAD_DIM).bfloat16()
    read = set()
    watch_loads(monkeypatch, lambda addresses: read.update(addresses.tolist()))
    attended(numbers((HEADS + 2 * KV_HEADS) * HEAD_DIM), position, cache, window=window)
    slot_bytes, first = HEAD_DIM * cache.element_size(), cache.data_ptr()
    slots = {(at - first) // slot_bytes % MAX_LEN for at in read if 0 <= at - first < cache.nbytes}
    seen = set(range(max(0, position + 1 - window) if window else 0, position))
    # Before the wait the position may be the last step's, so that one slot at either end is loaded too.
    assert seen <= slots <= seen | {position}


@pytest.mark.parametrize("window", [0, 1, 16, 17, 21])
@pytest.mark.parametrize("position", [16, 32, 33, 37])
def test_the_position_of_the_step_before_changes_no_bit(monkeypatch, position, window):
    raw, cache = numbers((HEADS + 2 * KV_HEADS) * HEAD_DIM), numbers(2, KV_HEADS, MAX_LEN, HEAD_DIM).bfloat16()
    want = attended(raw, position, cache.clone(), window=window)
    late = lag_behind(monkeypatch, position)
    got = attended(raw, position, cache.clone(), window=window)
    assert late()
    assert torch.equal(got, want)


def watch_loads(monkeypatch, see) -> None:
    """Call `see` with the addresses that each load of the interpreter really reads."""
    load = InterpreterBuilder.create_masked_load

    def watched(self, ptrs, mask, *rest):
        see(ptrs.data[mask.data])
        return load(self, ptrs, mask, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", watched)


def lag_behind(monkeypatch, position):
    """Let each program of attention first read one less than the position; return how to tell that all did."""
    load, lagged = InterpreterBuilder.create_load, set()

    def lagging(self, ptr, cache_modifier, eviction_policy, is_volatile):
        read = load(self, ptr, cache_modifier, eviction_policy, is_volatile)
        # Only the position is volatile; programs of the join, which come last, look once and after their wait.
        program = self.grid_idx
        if is_volatile and program not in lagged and len(lagged) < KV_HEADS * 2:
            lagged.add(program)
            assert read.data == position
            return type(read)(read.data - 1, read.dtype)
        return read

    monkeypatch.setattr(InterpreterBuilder, "create_load", lagging)
    return lambda: len(lagged) == KV_HEADS * 2


@pytest.mark.usefixtures("exact_fp8")
def test_a_query_beyond_float16_attends_in_its_direction_over_an_fp8_cache():
    position, (cos, sin) = 40, angles()
    raw = torch.zeros((HEADS + 2 * KV_HEADS) * HEAD_DIM)
    raw[: HEADS * HEAD_DIM] = 1e7 * numbers(HEAD_DIM).repeat(HEADS)
    query = turned(raw, KV_HEADS, cos[position], sin[position], None, 1.0)[0][:HEAD_DIM]
    cache = numbers(2, KV_HEADS, MAX_LEN, HEAD_DIM)
    cache[0] = -query.sign()
    cache[0, :, 7] = query.sign()
    cache = cache.to(torch.float8_e4m3fn)
    want, _, _ = attention(raw, position, cos, sin, *cache, None, 1e-6)
    torch.testing.assert_close(attended(raw, position, cache).float(), want.flatten(), rtol=BF16_STEP, atol=0)


@pytest.mark.filterwarnings("ignore:(invalid value|All-NaN slice) encountered:RuntimeWarning")
@pytest.mark.parametrize("kv", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.usefixtures("exact_fp8")
def test_a_query_that_is_no_number_stays_so_in_its_own_head(kv):
    raw = numbers((HEADS + 2 * KV_HEADS) * HEAD_DIM)
    raw[3] = float("nan")
    out = attended(raw, 40, numbers(2, KV_HEADS, MAX_LEN, HEAD_DIM).to(kv)).view(HEADS, HEAD_DIM)
    assert out[0].isnan().all()
    assert out[1:].isfinite().all()


def test_the_reference_combines_splits_and_the_token_into_the_softmax_over_all_slots():
    scores, values = numbers(HEADS, 25) * 3, numbers(HEADS, 25, HEAD_DIM)
    want = torch.softmax(scores, dim=1)[:, None] @ values
    parts, splits = (scores[:, :24] * LOG2_E).view(HEADS, 3, 8), values[:, :24].view(HEADS, 3, 8, HEAD_DIM)
    maxima = parts.amax(dim=2)
    weights = torch.exp2(parts - maxima[..., None])
    partial = (weights[..., None] * splits).sum(dim=2)
    got = combine(partial, maxima, weights.sum(dim=2), 3, scores[:, 24] * LOG2_E, values[:, 24])
    torch.testing.assert_close(got, want.flatten())


def step_input(token: int, position: int, hidden: int) -> calls.StepInput:
    return calls.StepInput(
        int32(token),
        int32(position),
        poisoned(hidden),
        poisoned(hidden, torch.bfloat16),
        poisoned(3),
        poisoned(HEAD_DIM),
    )


def assert_is_embedded(state: calls.StepInput, token: int, position: int, table, norm_weight) -> None:
    residual, normed, squares = embed(token, table, norm_weight)
    cos, sin = angles()
    assert torch.equal(state.residual, residual)
    torch.testing.assert_close(state.normed.float(), normed, rtol=BF16_STEP, atol=0)
    assert state.sums.tolist() == [pytest.approx(float(squares), rel=1e-5), 0.0, 0.0]
    assert torch.equal(state.rope_row, torch.cat([cos[position], sin[position]]))


def test_embed_writes_what_a_step_starts_from():
    table, norm_weight = numbers(9, 40).bfloat16(), numbers(40).bfloat16()
    state = step_input(7, 12, 40)
    calls.embed_call(state, table, norm_weight, angles()).issue()
    assert_is_embedded(state, 7, 12, table, norm_weight)


@pytest.mark.parametrize(("values", "token"), [([0.5, 2.0, 1.0], 3), ([2.0, 0.0, 2.0], 6), ([-1.0, -3.0, -2.0], 8)])
def test_sample_takes_the_best_token_and_moves_on(values, token):
    table, norm_weight = numbers(9, 40).bfloat16(), numbers(40).bfloat16()
    state, ring = step_input(1, 10, 40), int32(-1, -1, -1, -1)
    best, tokens = torch.tensor(values), int32(8, 3, 6)
    assert sample(best, tokens) == token
    calls.sample_call(best, tokens, ring, state, table, norm_weight, angles(), pdl=0).issue()
    assert state.token.tolist() == [token]
    assert state.position.tolist() == [11]
    assert ring.tolist() == [-1, -1, token, -1]
    assert_is_embedded(state, token, 11, table, norm_weight)


@pytest.mark.parametrize("programs", [1, 3, 12])
def test_stream_reads_every_number_once(programs):
    # The interpreter cannot wrap sums around: keep them small.
    source = torch.randint(-(2**20), 2**20, (12 * 64,), generator=torch.Generator().manual_seed(3)).int()
    partial = torch.full((programs,), 12345, dtype=torch.int32)
    calls.stream_call(source, partial, block=32, unroll=2, warps=1).issue()
    assert int(partial.sum(dtype=torch.int64)) == stream(source)
