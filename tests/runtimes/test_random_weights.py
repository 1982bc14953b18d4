import pytest
import torch

from memfloor.runtimes.random_weights import BLOCK_ELEMENTS, fill_parameters, random_tensor


def make(shape=(5, 7), dtype=torch.float32, seed=0, scale=1.0):
    return random_tensor(shape, dtype, "cpu", seed, scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_same_seed_gives_the_same_numbers(dtype):
    assert torch.equal(make(dtype=dtype, seed=3), make(dtype=dtype, seed=3))
    assert not torch.equal(make(dtype=dtype, seed=3), make(dtype=dtype, seed=4))


def test_the_numbers_do_not_depend_on_the_state_of_torch():
    torch.manual_seed(1)
    first = make()
    torch.manual_seed(2)
    assert torch.equal(make(), first)


def test_making_numbers_leaves_the_state_of_torch_alone():
    state = torch.get_rng_state()
    make()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("elements", [1, 2, 35, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS, BLOCK_ELEMENTS + 1])
def test_every_element_is_written(elements):
    numbers = make((elements,))
    assert torch.isfinite(numbers).all()
    assert (numbers != 0).float().mean() > 0.999


def test_a_tensor_larger_than_the_block_repeats_it():
    numbers = make((2 * BLOCK_ELEMENTS + 5,))
    assert torch.equal(numbers[:BLOCK_ELEMENTS], numbers[BLOCK_ELEMENTS : 2 * BLOCK_ELEMENTS])
    assert torch.equal(numbers[:5], numbers[-5:])


@pytest.mark.parametrize("columns", [64, 896, 4096])
def test_no_two_rows_of_a_repeated_matrix_are_equal(columns):
    rows = make((BLOCK_ELEMENTS // columns + 50, columns))
    assert len(torch.unique(rows[:, :4], dim=0)) == len(rows)


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0])
def test_numbers_are_normal_times_scale(scale):
    numbers = make((100_000,), scale=scale)
    # Five standard errors of the mean and of the deviation of 100,000 draws.
    assert abs(float(numbers.mean())) < 5 * scale / 100_000**0.5
    assert abs(float(numbers.std()) - scale) < 5 * scale / 200_000**0.5


@pytest.fixture
def module():
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.LayerNorm(512), torch.nn.Linear(512, 64))
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    return model


def test_no_parameter_is_left_as_it_was(module):
    fill_parameters(module, 0)
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_matrices_keep_the_size_of_what_they_multiply(module):
    fill_parameters(module, 0)
    for matrix in (module[0].weight, module[2].weight):
        assert float(matrix.detach().std()) == pytest.approx(matrix.shape[1] ** -0.5, rel=0.05)


def test_norms_are_one_and_biases_near_zero(module):
    fill_parameters(module, 0)
    assert torch.equal(module[1].weight, torch.ones(512))
    assert all(0 < float(bias.detach().abs().max()) < 0.1 for bias in (module[0].bias, module[2].bias))


def test_parameters_are_decided_by_the_seed(module):
    fill_parameters(module, 7)
    first = [parameter.clone() for parameter in module.parameters()]
    fill_parameters(module, 7)
    assert all(torch.equal(old, new) for old, new in zip(first, module.parameters(), strict=True))
    fill_parameters(module, 8)
    assert not torch.equal(first[0], module[0].weight)


def test_deep_models_stay_finite_in_half_precision(prepared, tiny):
    system = prepared(spec=tiny("llama", num_hidden_layers=24), weights="bf16")
    seen = []
    system.model.register_forward_hook(lambda module, arguments, output: seen.append(output.logits))
    system.step()
    assert torch.isfinite(seen[0]).all()
    assert 0.05 < float(seen[0].float().std()) < 50
