"""Matrix-vector kernels over quantised weights against their references over the dequantised ones."""

import pytest
import torch

from memfloor.engine.cuda import calls
from memfloor.engine.cuda.launch_shapes import ProjectionShape, RowShape
from memfloor.engine.cuda.matrix import CHUNK_COLUMNS, dequantize, quantize
from memfloor.engine.kernels.gate_up.reference import gate_up
from memfloor.engine.kernels.head.reference import head
from memfloor.engine.kernels.projection.reference import projection
from memfloor.engine.kernels.qkv.reference import qkv, turned
from memfloor.errors import UsageError
from memfloor.spec import weight_format

# One unit in the last place: the interpreter truncates when it stores bf16.
BF16_STEP = 2.0**-7
# Codes of the activation are off by up to a part in 65534 of their chunk's greatest, some three times the rest.
BOUND = 1e-4
EPS = 1e-6
LOG2_E = 1.4426950408889634
FORMATS = tuple(CHUNK_COLUMNS)
ROWS = [RowShape(4, 1), RowShape(16, 1)]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).bfloat16()


def uneven(*shape: int) -> torch.Tensor:
    """Return weights of unequal rows and groups: some of zeros, of one sign, far from zero, or tiny."""
    w = numbers(*shape).float()
    w *= torch.logspace(-3, 1, shape[-2])[:, None]
    w[..., 3, :] = 0.0
    w[..., 5, :] = w[..., 5, :].abs() + 1.0
    w[..., 7, : shape[-1] // 2] *= 1e-4
    return w.bfloat16()


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full(shape, float("nan"), dtype=dtype)


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.float() - want).norm() / want.norm())


@pytest.mark.parametrize(("name", "step"), [("int8", 0.5 / 127), ("fp8", 2.0**-4), ("int4-g128", 0.51 / 15)])
def test_quantising_rounds_to_the_nearest(name, step):
    w = uneven(21, 384).float()
    error = (dequantize(quantize(w.bfloat16(), name)) - w).view(21, 3, 128).abs().amax(dim=2)
    groups = w.view(21, 3, 128)
    low, high = groups.amin(dim=2).clamp(max=0), groups.amax(dim=2).clamp(min=0)
    greatest = high - low if name == "int4-g128" else w.abs().amax(dim=1, keepdim=True)
    # A zero between two steps and a scale of 8 bits cost int4 half a step and a part in 256 more.
    allowance = 2.1 if name == "int4-g128" else 1.001
    assert (error <= greatest * step * allowance).all()


@pytest.mark.parametrize("name", FORMATS)
def test_a_packed_matrix_takes_the_bytes_its_format_says(name):
    matrix, form = quantize(numbers(21, 384), name), weight_format(name)
    assert matrix.words.numel() * 4 == form.weight_bytes(21, 384) + form.scales_bytes(21, 384)
    assert dequantize(matrix).shape == (21, 384)


@pytest.mark.parametrize(
    ("name", "columns", "chunk"), [("int8", 96, 64), ("fp8", 200, 64), ("int4-g128", 192, 128), ("bf16", 129, 8)]
)
def test_rows_that_do_not_fill_chunks_are_refused(name, columns, chunk):
    with pytest.raises(UsageError, match=f"{name} needs rows in multiples of {chunk} numbers, not {columns}"):
        quantize(numbers(3, columns), name)


def test_an_unknown_format_is_refused():
    with pytest.raises(UsageError, match=r"unknown weight format 'int3'; allowed: bf16, fp8, int4-g128, int8"):
        quantize(numbers(3, 128), "int3")


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("name", FORMATS)
def test_qkv_matches_its_reference(shape, name):
    rows = (3 + 2 * 1) * 32
    x, w, sums, bias = numbers(384), quantize(uneven(rows, 384), name), torch.rand(5) * 40, numbers(rows)
    cos, sin = torch.rand(16), torch.rand(16)
    heads = calls.Heads(poisoned(rows), None, 1, 32)
    calls.qkv_call(x, sums, w, bias, None, torch.cat([cos, sin]), heads, eps=EPS, shape=shape, pdl=0).issue()
    want, _ = turned(qkv(x, sums, dequantize(w), bias, EPS), 1, cos, sin, None, LOG2_E / 32**0.5)
    assert relative_error(heads.values, want) < BOUND


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("name", FORMATS)
def test_gate_up_matches_its_reference(shape, name):
    x, w, sums = numbers(256) * 0.1, quantize(uneven(2, 43, 256), name), torch.rand(3) * 40
    out = poisoned(43, dtype=torch.bfloat16)
    calls.gate_up_call(x, sums, w, out, eps=EPS, shape=shape, pdl=0).issue()
    assert relative_error(out, gate_up(x, sums, dequantize(w).view(2, 43, 256), EPS)) < BF16_STEP


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("name", FORMATS)
def test_head_matches_its_reference_and_finds_the_best_token(shape, name):
    x, w, sums = numbers(256), quantize(numbers(101, 256), name), torch.rand(3) * 40
    programs = shape.programs(101)
    logits, value = poisoned(101), poisoned(programs)
    token = torch.full((programs,), -1, dtype=torch.int32)
    calls.head_call(x, sums, w, logits, value, token, eps=EPS, shape=shape, pdl=0).issue()
    assert relative_error(logits, head(x, sums, dequantize(w), EPS)) < BOUND
    assert int(token[value.argmax()]) == int(logits.argmax())


def logits_of(x: torch.Tensor, name: str, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits [20] of an activation [256] and weights [20, 256] in a format, and the reference's."""
    w, sums = quantize(weights, name), torch.tensor([256.0])
    logits, scratch = poisoned(20), (poisoned(2), torch.zeros(2, dtype=torch.int32))
    calls.head_call(x, sums, w, logits, *scratch, eps=EPS, shape=RowShape(16, 1), pdl=0).issue()
    return logits, head(x, sums, dequantize(w), EPS)


@pytest.mark.parametrize("name", FORMATS)
def test_unpacked_weights_are_the_bf16_numbers_nearest_to_what_they_stand_for(name):
    matrix = quantize(uneven(37, 384), name)
    out = poisoned(37, 384, dtype=torch.bfloat16)
    calls.unpack_call(matrix, out).issue()
    assert torch.equal(out, dequantize(matrix).bfloat16())


@pytest.mark.parametrize("name", FORMATS)
def test_an_activation_of_zeros_gives_zeros(name):
    logits, _ = logits_of(torch.zeros(256).bfloat16(), name, numbers(20, 256))
    assert logits.eq(0).all()


@pytest.mark.parametrize("name", FORMATS)
def test_a_number_far_above_the_others_costs_other_chunks_nothing(name):
    x, weights = numbers(256), numbers(20, 256)
    x[200] = 1e4
    # Its own chunk meets no weights: whatever is lost is lost of the others.
    weights[:, 128:] = 0
    logits, want = logits_of(x, name, weights)
    assert relative_error(logits, want) < BOUND


@pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero|All-NaN slice) encountered:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_not_finite_stays_so_in_every_row(name, value):
    x = numbers(256)
    x[77] = value
    logits, _ = logits_of(x, name, numbers(20, 256))
    assert not logits.isfinite().any()


@pytest.mark.parametrize(
    "shape",
    [
        ProjectionShape(16, 512, 1, 1),
        ProjectionShape(32, 128, 1, 1),
        ProjectionShape(8, 128, 2, 1),
        ProjectionShape(16, 128, 3, 1, ahead=3),
        ProjectionShape(16, 128, 3, 1, ahead=0),
    ],
    ids=["whole rows", "three splits", "two steps, two splits", "three steps ahead", "none ahead"],
)
@pytest.mark.parametrize("name", FORMATS)
def test_projection_matches_its_reference(shape, name):
    x, w, norm_weight, residual = (
        numbers(384),
        quantize(uneven(37, 384), name),
        numbers(37, seed=1),
        numbers(37).float(),
    )
    tiles = -(-37 // shape.block_n)
    stream, normed, sums = residual.clone(), poisoned(37, dtype=torch.bfloat16), poisoned(tiles)
    scratch = (poisoned(shape.splits(384) * 37), torch.zeros(tiles, dtype=torch.int32))
    calls.projection_call(x, w, None, stream, norm_weight, normed, sums, *scratch, shape=shape, pdl=0).issue()
    want, want_normed, want_squares = projection(x, dequantize(w), None, residual, norm_weight)
    assert relative_error(stream, want) < BOUND
    assert relative_error(normed, want_normed) < BF16_STEP
    assert float(sums.sum()) == pytest.approx(float(want_squares), rel=1e-4)
