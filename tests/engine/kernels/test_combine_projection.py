"""The O projection that joins the splits of attention itself, against its reference and the two kernels it replaces."""

import pytest
import torch

from memfloor.engine.cuda import calls
from memfloor.engine.cuda.launch_shapes import AttentionShape, CombineProjectionShape
from memfloor.engine.kernels.combine_projection.reference import combine, combine_projection
from memfloor.engine.kernels.projection.reference import projection

BF16_STEP = 2.0**-7
HEADS, HEAD_DIM, ROWS, MAX_LEN = 6, 32, 37, 75
# Of a float32 sum over all heads, of a sum over splits, and of the exponentials in between.
BOUND = 4 * (HEADS * HEAD_DIM) ** 0.5 * 2.0**-23


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def poisoned(size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full((size,), float("nan"), dtype=dtype)


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def splits_of(attention: AttentionShape, position: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return partials, maxima and sums; what the splits without slots hold is no number."""
    splits = attention.splits(MAX_LEN)
    scratch = numbers(HEADS, splits, HEAD_DIM), numbers(HEADS, splits) * 3, numbers(HEADS, splits).abs() + 1
    for tensor in scratch:
        tensor[:, used_splits(attention, position) :] = float("nan")
    return scratch


def used_splits(attention: AttentionShape, position: int) -> int:
    return min(position // attention.block_s + 1, attention.splits(MAX_LEN))


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.float() - want).norm() / want.norm())


def outputs(shape: CombineProjectionShape) -> tuple[torch.Tensor, ...]:
    tiles = shape.tiles(ROWS)
    ticket = torch.zeros(tiles, dtype=torch.int32)
    return poisoned(ROWS, torch.bfloat16), poisoned(tiles), poisoned(HEADS * ROWS), ticket


@pytest.mark.parametrize("attention", [AttentionShape(16, 2, 1), AttentionShape(4, 19, 1)], ids=["2", "19 splits"])
@pytest.mark.parametrize("position", [0, 3, 4, 40, 74])
@pytest.mark.parametrize("biased", [True, False])
def test_it_matches_its_reference_twice(attention, position, biased):
    shape = CombineProjectionShape(16, 8, 1)
    w, norm_weight = numbers(ROWS, HEADS * HEAD_DIM).bfloat16(), numbers(ROWS, seed=1).bfloat16()
    bias, residual = numbers(ROWS, seed=2).bfloat16() if biased else None, numbers(ROWS)
    scratch = splits_of(attention, position)
    want, want_normed, want_squares = combine_projection(
        scratch, used_splits(attention, position), w, bias, residual, norm_weight
    )
    normed, sums, products, ticket = outputs(shape)
    # The second launch finds the tickets as the first left them.
    for _ in range(2):
        stream = residual.clone()
        args = (int32(position), scratch, w, bias, stream, norm_weight, normed, sums, products, ticket)
        calls.combine_projection_call(*args, attention=attention, max_len=MAX_LEN, shape=shape, pdl=0).issue()
        assert relative_error(stream, want) < BOUND
        assert relative_error(normed, want_normed) < BF16_STEP
        assert float(sums.sum()) == pytest.approx(float(want_squares), rel=1e-5)
        assert ticket.eq(0).all()


@pytest.mark.parametrize(
    "shape", [CombineProjectionShape(16, 32, 1), CombineProjectionShape(64, 8, 1), CombineProjectionShape(8, 128, 1)]
)
def test_every_shape_gives_what_combine_and_projection_give(shape):
    attention, position = AttentionShape(16, 5, 1), int32(50)
    w, norm_weight = numbers(ROWS, HEADS * HEAD_DIM).bfloat16(), numbers(ROWS, seed=1).bfloat16()
    scratch, residual = splits_of(attention, 50), numbers(ROWS)
    attended = combine(*scratch, used_splits(attention, 50))
    args = (position, scratch, w, None, residual, norm_weight, *outputs(shape))
    call = calls.combine_projection_call(*args, attention=attention, max_len=MAX_LEN, shape=shape, pdl=0)
    want, _, _ = projection(attended, w, None, residual.clone(), norm_weight)
    call.issue()
    assert relative_error(residual, want) < BOUND


def test_the_reference_combines_splits_into_the_softmax_over_all_slots():
    scores, values = numbers(HEADS, 24) * 3, numbers(HEADS, 24, HEAD_DIM)
    want = torch.softmax(scores, dim=1)[:, None] @ values
    parts, splits = (scores * 1.4426950408889634).view(HEADS, 3, 8), values.view(HEADS, 3, 8, HEAD_DIM)
    maxima = parts.amax(dim=2)
    weights = torch.exp2(parts - maxima[..., None])
    partial = (weights[..., None] * splits).sum(dim=2)
    got = combine(partial, maxima, weights.sum(dim=2), 3)
    torch.testing.assert_close(got, want.flatten())
