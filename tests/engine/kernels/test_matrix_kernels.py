"""Matrix-vector kernels against their references, on odd shapes and into NaN-filled outputs."""

import pytest
import torch

from memfloor.engine.cuda import calls
from memfloor.engine.cuda.launch_shapes import ProjectionShape, RowShape
from memfloor.engine.kernels.gate_up.reference import gate_up
from memfloor.engine.kernels.head.reference import head
from memfloor.engine.kernels.projection.reference import projection
from memfloor.engine.kernels.qkv.reference import qkv, turned

# One unit in the last place: the interpreter truncates when it stores bf16.
BF16_STEP = 2.0**-7
EPS = 1e-6
LOG2_E = 1.4426950408889634


def sum_bound(terms: int) -> float:
    """Bound the relative rounding of a float32 sum of `terms` products, for both sides."""
    return 2 * terms**0.5 * 2.0**-23


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).bfloat16()


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.float() - want).norm() / want.norm())


ROWS = [RowShape(16, 1), RowShape(64, 1)]


@pytest.mark.parametrize("shape", [RowShape(1, 1), RowShape(4, 1), RowShape(64, 1)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("normed", [True, False])
def test_qkv_matches_its_reference(shape, biased, normed):
    rows = (3 + 2 * 1) * 16
    x, w, sums = numbers(200), numbers(rows, 200), torch.rand(5) * 40
    bias = numbers(rows) if biased else None
    qk_norm = (numbers(16), numbers(16, seed=1)) if normed else None
    cos, sin = torch.rand(8), torch.rand(8)
    want, want_squares = turned(qkv(x, sums, w, bias, EPS), 1, cos, sin, qk_norm, LOG2_E / 4)
    heads = calls.Heads(poisoned(rows), poisoned(4 * 8) if normed else None, 1, 16)
    calls.qkv_call(x, sums, w, bias, qk_norm, torch.cat([cos, sin]), heads, eps=EPS, shape=shape, pdl=0).issue()
    assert relative_error(heads.values, want) < 2 * sum_bound(200)
    if normed:
        assert relative_error(heads.squares, want_squares) < 2 * sum_bound(200)


@pytest.mark.parametrize("shape", ROWS)
def test_gate_up_matches_its_reference(shape):
    x, w, sums = numbers(136), numbers(2, 75, 136), torch.rand(3) * 40
    out = poisoned(75, dtype=torch.bfloat16)
    calls.gate_up_call(x, sums, w, out, eps=EPS, shape=shape, pdl=0).issue()
    assert relative_error(out, gate_up(x, sums, w, EPS)) < BF16_STEP


@pytest.mark.parametrize("shape", ROWS)
def test_head_matches_its_reference_and_finds_the_best_token(shape):
    x, w, sums = numbers(136), numbers(101, 136), torch.rand(3) * 40
    programs = shape.programs(101)
    logits, value = poisoned(101), poisoned(programs)
    token = torch.full((programs,), -1, dtype=torch.int32)
    calls.head_call(x, sums, w, logits, value, token, eps=EPS, shape=shape, pdl=0).issue()
    assert relative_error(logits, head(x, sums, w, EPS)) < sum_bound(136)
    assert float(value.max()) == float(logits.max())
    assert int(token[value.argmax()]) == int(logits.argmax())


def test_head_prefers_the_lowest_of_equal_tokens():
    x, w = numbers(64), numbers(1, 64).expand(40, 64).contiguous()
    value, token = poisoned(3), torch.full((3,), -1, dtype=torch.int32)
    shape = RowShape(16, 1)
    sums = torch.tensor([64.0])
    calls.head_call(x, sums, w, poisoned(40), value, token, eps=EPS, shape=shape, pdl=0).issue()
    assert token.tolist() == [0, 16, 32]


def test_head_draws_tokens_with_their_softmax_probabilities_by_seed_and_position_alone():
    temperature, draws = 1.7, 400
    x, w = numbers(64), numbers(8, 64) * 0.2
    logits, value = poisoned(8), poisoned(1)
    token, position = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)

    def draw(at: int, seed: int) -> int:
        position.fill_(at)
        how = calls.Draws(position, temperature, seed)
        sums, shape = torch.tensor([64.0]), RowShape(16, 1)
        calls.head_call(x, sums, w, logits, value, token, draws=how, eps=EPS, shape=shape, pdl=0).issue()
        return int(token)

    counts = torch.bincount(torch.tensor([draw(at, 3) for at in range(draws)]), minlength=8)
    expected = draws * torch.softmax(head(x, torch.tensor([64.0]), w, EPS) / temperature, dim=0)
    # Chi squared of seven degrees of freedom exceeds 24.3 in one of a thousand seeds; this seed is fixed.
    assert float(((counts - expected) ** 2 / expected).sum()) < 24.3
    assert expected.min() > 5
    first = [draw(at, 3) for at in range(12)]
    assert first == [draw(at, 3) for at in range(12)]
    assert first != [draw(at, 4) for at in range(12)]


@pytest.mark.parametrize(
    "shape",
    [
        ProjectionShape(16, 256, 1, 1),
        ProjectionShape(16, 64, 1, 1),
        ProjectionShape(8, 64, 2, 1),
        ProjectionShape(8, 64, 2, 1, ahead=0),
        ProjectionShape(16, 64, 9, 1, ahead=3),
        ProjectionShape(16, 64, 9, 1, ahead=7),
    ],
    ids=["whole rows", "four splits", "two steps, two splits", "none ahead", "three of four ahead", "all ahead"],
)
@pytest.mark.parametrize("biased", [True, False])
def test_projection_matches_its_reference_twice(shape, biased):
    x, w, norm_weight, residual = numbers(200), numbers(37, 200), numbers(37, seed=1), numbers(37).float()
    bias = numbers(37, seed=2) if biased else None
    tiles = -(-37 // shape.block_n)
    ticket = torch.zeros(tiles, dtype=torch.int32)
    # The second launch finds the tickets as the first left them.
    for _ in range(2):
        stream, normed, sums = residual.clone(), poisoned(37, dtype=torch.bfloat16), poisoned(tiles)
        partial = poisoned(shape.splits(200) * 37)
        calls.projection_call(
            x, w, bias, stream, norm_weight, normed, sums, partial, ticket, shape=shape, pdl=0
        ).issue()
        want, want_normed, want_squares = projection(x, w, bias, residual, norm_weight)
        assert relative_error(stream, want) < sum_bound(200)
        assert relative_error(normed, want_normed) < BF16_STEP
        assert float(sums.sum()) == pytest.approx(float(want_squares), rel=1e-5)
        assert ticket.eq(0).all()
