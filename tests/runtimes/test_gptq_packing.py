"""Rounding and packing by hand-counted codes; GPTQModel's own unpacking gives the same weights back."""

import numpy as np
import pytest
import torch

from memfloor.runtimes.gptq_packing import AWQ_ORDER, IN_ORDER, Rounded, pack, pack_words, round_to_nearest

SHAPES = [(16, 128), (48, 384), (136, 256)]


def unpacked(words, order):
    """Return the codes [R, C] of words [R, C/8] by numpy alone."""
    bits = words.numpy().view(np.uint32)
    codes = np.zeros((bits.shape[0], bits.shape[1] * 8), np.int64)
    for place, code in enumerate(order):
        codes[:, code::8] = (bits >> np.uint32(4 * place)) & 15
    return codes


def random_codes(*shape):
    return torch.randint(16, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def test_a_word_holds_its_codes_from_the_lowest_bits_up():
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]], dtype=torch.uint8)
    assert pack_words(codes, IN_ORDER).tolist() == [[0x87654321 - 2**32]]
    # Even columns first, and then the odd ones.
    assert pack_words(codes, AWQ_ORDER).tolist() == [[0x86427531 - 2**32]]


@pytest.mark.parametrize("order", [IN_ORDER, AWQ_ORDER])
def test_every_code_comes_back_from_its_word(order):
    codes = random_codes(7, 40)
    assert np.array_equal(unpacked(pack_words(codes, order), order), codes.numpy())


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_gptq_packs_down_the_columns_and_awq_along_the_rows(rows, columns):
    groups = columns // 128
    rounded = Rounded(random_codes(rows, columns), torch.rand(rows, groups), random_codes(rows, groups))
    gptq, awq = pack(rounded, "gptq"), pack(rounded, "awq")
    assert gptq["qweight"].shape == (columns // 8, rows)
    assert awq["qweight"].shape == (columns, rows // 8)
    assert np.array_equal(unpacked(gptq["qweight"].T.contiguous(), IN_ORDER), rounded.codes.numpy())
    assert np.array_equal(unpacked(awq["qweight"], AWQ_ORDER), rounded.codes.numpy().T)
    for packed, order in ((gptq, IN_ORDER), (awq, AWQ_ORDER)):
        assert packed["scales"].shape == (groups, rows)
        assert np.array_equal(unpacked(packed["qzeros"], order), rounded.zeros.numpy().T)
        assert all(tensor.is_contiguous() for tensor in packed.values())


def test_a_symmetric_group_by_hand():
    weight = torch.tensor([[7.5, -7.5, 3.0, 0.4, -0.6, 0.0, 0.0, 0.0], [0.0] * 8], dtype=torch.bfloat16)
    rounded = round_to_nearest(weight, 4, symmetric=True)
    # The span of 15 has steps of one; 7.5 would be code 16, and is cut to 15.
    assert rounded.scales[0, 0] == 1.0
    assert rounded.codes[0, :4].tolist() == [15, 0, 11, 8]
    assert rounded.codes[0, 4:].tolist() == [0, 8, 8, 8]
    assert rounded.codes[1].tolist() == [8] * 8
    assert rounded.zeros.tolist() == [[8, 8], [8, 8]]


def test_a_group_with_a_zero_of_its_own_by_hand():
    weight = torch.tensor([[-3.0, 12.0, 0.0, 5.4], [2.0, 30.0, 4.0, 6.0], [-15.0, -1.0, -2.0, -7.0]]).half()
    rounded = round_to_nearest(weight, 4, symmetric=False)
    # Spans include zero: -3 to 12, 0 to 30, -15 to 0.
    assert rounded.scales.flatten().tolist() == [1.0, 2.0, 1.0]
    assert rounded.zeros.flatten().tolist() == [3, 0, 15]
    assert rounded.codes.tolist() == [[0, 15, 3, 8], [1, 15, 2, 3], [0, 14, 13, 8]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_no_weight_moves_by_more_than_its_step(dtype, symmetric):
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(2)).mul_(0.02).to(dtype)
    rounded = round_to_nearest(weight, 128, symmetric)
    steps = rounded.scales.float().repeat_interleave(128, 1)
    codes, zeros = rounded.codes.float(), rounded.zeros.float().repeat_interleave(128, 1)
    moved = ((codes - zeros) * steps - weight.float()).abs() / steps
    # Half a step, and half a step more at a symmetric group's cut end or by a zero that was rounded.
    assert moved.max() <= 1.05
    assert moved.median() < 0.3


def test_weights_too_small_for_a_scale_become_zero():
    rounded = round_to_nearest(torch.full((1, 4), 6e-8, dtype=torch.float16), 4, symmetric=True)
    assert rounded.scales.item() > 0
    assert rounded.codes.tolist() == [[8] * 4]
