"""EXL3 layers without a GPU: their bytes, their values by GPTQModel's own reference, and what is refused."""

import pytest
import torch

from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.runtimes.exllamav3 import READ, ExllamaV3, make_layer, random_tensors
from memfloor.runtimes.gptq_operators import gptqmodel_module
from memfloor.spec import weight_format

SHAPE = {"hidden_size": 256, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 2}
SHAPES = [(128, 256), (384, 128)]


@pytest.fixture
def asked(request_for, tiny):
    """Return a function that makes a request for EXL3 layers on a device."""

    def make(device="cuda", head="fp16", kv="fp16", shape=SHAPE, weights_from=None):
        made = request_for("exllamav3", spec=tiny("qwen2", **shape), weights="fp16")
        formats = {"weights": "exl3-4", "head": head, "kv": kv}
        workload = made.cell.workload.model_copy(update=formats)
        cell = made.cell.model_copy(update={"workload": workload, "device": device, "weights_from": weights_from})
        return DecodeRequest(cell, made.start_len, made.max_steps, made.seed)

    return make


@pytest.fixture
def a_gpu(monkeypatch):
    """Say that there is a GPU of 9.0, for what is refused beside it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


def linear_of(rows, columns):
    linear = torch.nn.Linear(columns, rows, dtype=torch.float16)
    with torch.no_grad():
        linear.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(3))
    return linear


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_the_tensors_read_are_the_bytes_of_the_format(rows, columns):
    tensors = random_tensors(linear_of(rows, columns).weight, 4, 7)
    form = weight_format("exl3-4")
    assert tensors["trellis"].nbytes == form.weight_bytes(rows, columns) == rows * columns // 2
    assert sum(tensors[name].nbytes for name in READ[1:]) == form.scales_bytes(rows, columns) == 2 * (rows + columns)


def test_every_bit_of_a_trellis_is_as_often_set_as_not_and_follows_from_the_seed():
    weight = linear_of(384, 256).weight
    first, again, other = (random_tensors(weight, 4, seed)["trellis"] for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    words = first.flatten().int()
    # Each bit is drawn in 24,576 words: five standard errors of a half are 0.016.
    shares = torch.stack([(words >> bit & 1).float().mean() for bit in range(16)])
    assert (shares - 0.5).abs().max() < 0.016


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_the_librarys_reference_reads_weights_of_the_spread_asked_for(gptqmodel_library, rows, columns):
    linear = linear_of(rows, columns)
    tensors = random_tensors(linear.weight, 4, 7)
    reference = gptqmodel_module("nn_modules.exllamav3_torch").ExllamaV3TorchLinear.from_tensors(
        in_features=columns, out_features=rows, name="", tensors=tensors
    )
    held = reference.get_weight_tensor()
    assert held.shape == (columns, rows)
    assert float(held.std()) == pytest.approx(float(linear.weight.detach().float().std()), rel=0.03)


def test_a_layer_is_the_librarys_own_and_runs_on_a_gpu_alone(gptqmodel_library, asked):
    linear = linear_of(128, 256)
    layer = make_layer(linear, 4, 7)
    assert type(layer).__name__ == "ExllamaV3Linear"
    system = ExllamaV3(asked())
    held = [tensor.nbytes for tensor in system.quantized_tensors(layer)]
    assert held == [128 * 256 // 2, 2 * 256, 2 * 128]
    assert torch.equal(layer.bias, linear.bias)
    with pytest.raises(RuntimeError, match="EXL3 inference requires CUDA"):
        layer(torch.zeros(1, 256, dtype=torch.float16))


def test_layers_of_one_shape_differ_and_are_the_same_each_time(gptqmodel_library, asked):
    system, first, second = ExllamaV3(asked()), linear_of(128, 256), linear_of(128, 256)
    with torch.no_grad():
        second.weight.add_(0.01)
    layers = [system.quantize_linear(linear) for linear in (first, first, second)]
    assert torch.equal(layers[0].trellis, layers[1].trellis)
    assert not torch.equal(layers[0].trellis, layers[2].trellis)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "cpu"}, "exllamav3 runs weights exl3-4 on cuda, not on cpu"),
        ({"head": "bf16", "kv": "bf16"}, "exllamav3 keeps the head in fp16, not bf16; --head fp16"),
        ({"kv": "bf16"}, "exllamav3 keeps the KV cache in the head's type fp16, not bf16; --kv fp16"),
        (
            {"shape": SHAPE | {"intermediate_size": 320}},
            "EXL3 needs rows and columns in multiples of 128, and gate_proj has 320",
        ),
    ],
)
def test_what_the_kernels_are_not_for_is_refused(asked, a_gpu, changes, reason):
    assert ExllamaV3.unavailable_reason(asked(**changes).cell) == reason


@pytest.mark.parametrize("capability", [(7, 5), (10, 0)])
def test_a_gpu_without_launch_shapes_is_refused(asked, a_gpu, monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    found = ".".join(map(str, capability))
    reason = f"GPTQModel's EXL3 kernels need compute capability 8.x or 9.x, and this GPU has {found}"
    assert ExllamaV3.unavailable_reason(asked().cell) == reason


def test_a_checkpoint_is_refused(asked, a_gpu, checkpoint, tiny):
    folder = str(checkpoint(tiny("qwen2", **SHAPE)))
    reason = f"exllamav3 decodes random trellises: to quantise {folder} takes a calibrated search"
    assert ExllamaV3.unavailable_reason(asked(weights_from=folder).cell) == reason


def test_without_a_gpu_nothing_of_it_is_usable(gptqmodel_library, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ExllamaV3.unavailable_reason() == "exllamav3 runs on a CUDA GPU alone, and torch sees none"


def test_the_registry_knows_it():
    assert find_runtime("exllamav3") is ExllamaV3
