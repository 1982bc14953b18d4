"""EXL3 layers without a GPU: their bytes, their values by GPTQModel's own reference, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from memfloor.errors import UsageError
from memfloor.runtimes import DecodeRequest, exllamav3, find_runtime
from memfloor.runtimes.exl3_checkpoint import READ, Exl3Checkpoint, codebook
from memfloor.runtimes.exllamav3 import ExllamaV3, make_layer, random_tensors, unpacked
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
    layer = make_layer(linear, random_tensors(linear.weight, 4, 7))
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


@pytest.fixture
def stored(checkpoint, tiny):
    """Return a function that saves a checkpoint of random trellises, whose head has six bits."""

    def save(config=None, changes=None, **spec):
        from safetensors.torch import load_file, save_file

        folder = Path(checkpoint(tiny("qwen2", **(SHAPE | {"vocab_size": 320} | spec))))
        file = folder / "model.safetensors"
        tensors = load_file(file)
        layers = [name for name in tensors if name.endswith(("_proj.weight", "lm_head.weight"))]
        for seed, name in enumerate(layers):
            weight, bits = tensors.pop(name), 4
            if name.startswith("lm_head"):
                # Rows are padded to a multiple of 128.
                weight, bits = torch.nn.functional.pad(weight, (0, 0, 0, -len(weight) % 128)), 6
            made = random_tensors(weight, bits, seed)
            tensors |= {f"{name.removesuffix('weight')}{kind}": tensor for kind, tensor in made.items()}
        for name, tensor in (changes or {}).items():
            if tensor is None:
                del tensors[name]
            else:
                tensors[name] = tensor
        save_file(tensors, file)
        path = folder / "config.json"
        quantised = {"quant_method": "exl3", "bits": 4.0, "head_bits": 6} | (config or {})
        path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantised}))
        return str(folder)

    return save


def test_a_checkpoint_gives_its_layers_as_they_are(stored):
    held = Exl3Checkpoint(Path(stored()))
    name = "model.layers.1.mlp.down_proj"
    layer = held.layer(name)
    assert list(layer) == ["trellis", "suh", "svh", "mcg"]
    assert layer["trellis"].shape == held.shape(f"{name}.trellis") == (384 // 16, 256 // 16, 64)
    assert (held.bits(name), held.bits("lm_head"), held.has_own_head) == (4, 6, True)


@pytest.mark.parametrize(("held", "name"), [(("trellis", "mcg"), "mcg"), (("mul1",), "mul1"), (("trellis",), "3inst")])
def test_a_codebook_is_told_by_the_number_beside_a_trellis(held, name):
    assert codebook(held) == name


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_is_filled_from_a_checkpoint(gptqmodel_library, asked, stored, monkeypatch, tied):
    # There is no GPU that could run them, and to read a checkpoint takes none.
    monkeypatch.setattr(exllamav3, "load_operators", lambda *_, **__: None)
    changes = {"vocab_size": 320, "tie_word_embeddings": tied}
    folder = stored(**changes)
    system = ExllamaV3(asked("cpu", shape=SHAPE | changes, weights_from=folder))
    model = system.make_model()
    held, name = Exl3Checkpoint(Path(folder)), "model.layers.1.self_attn.k_proj"
    layer = model.get_submodule(name)
    for kind, tensor in held.layer(name).items():
        assert torch.equal(getattr(layer, kind), tensor)
    assert torch.equal(layer.bias.float(), held.tensor(f"{name}.bias").half().float())
    assert torch.equal(model.model.norm.weight, held.tensor("model.norm.weight").half())
    embedding = held.tensor("model.embed_tokens.weight").half()
    head = embedding if tied else unpacked(held.layer("lm_head"), 320, 256).half()
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    assert torch.equal(model.get_output_embeddings().weight, head)


def test_the_facts_say_what_became_of_a_quantised_head(asked, stored):
    folder = stored()
    origin = ExllamaV3(asked(weights_from=folder))._origin()
    assert origin == {"quantised": "EXL3 checkpoint", "head": "unpacked from 6 bits"}
    without = stored(changes={f"lm_head.{kind}": None for kind in (*READ, "mcg")})
    assert ExllamaV3(asked(weights_from=without))._origin() == {"quantised": "EXL3 checkpoint"}
    assert ExllamaV3(asked())._origin() == {"quantised": "random trellises, which no weights were searched for"}


def test_a_checkpoint_that_is_not_in_exl3_is_refused(asked, a_gpu, checkpoint, tiny):
    folder = str(checkpoint(tiny("qwen2", **SHAPE)))
    reason = f"{folder} is not quantised, and to bring it into EXL3 takes a calibrated search"
    assert ExllamaV3.unavailable_reason(asked(weights_from=folder).cell) == reason


@pytest.mark.parametrize(
    ("config", "changes", "reason"),
    [
        ({"quant_method": "gptq"}, {}, "quant_method of {folder} is gptq, not exl3"),
        (
            {},
            {"model.layers.0.self_attn.v_proj.trellis": torch.zeros(16, 8, 80, dtype=torch.int16)},
            "model.layers.0.self_attn.v_proj in {folder} has 5 bits, not 4",
        ),
        (
            {},
            {"model.layers.1.mlp.up_proj.trellis": None},
            "{folder} lacks the tensor model.layers.1.mlp.up_proj.trellis",
        ),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(asked, a_gpu, stored, config, changes, reason):
    folder = stored(config, changes)
    cell = asked(weights_from=folder).cell
    assert ExllamaV3.unavailable_reason(cell) == reason.format(folder=folder)


def test_signs_without_scales_are_refused_when_they_are_read(stored):
    folder = stored(changes={"model.layers.0.mlp.up_proj.suh": None})
    with pytest.raises(UsageError, match=r"lacks the tensor model\.layers\.0\.mlp\.up_proj\.suh"):
        Exl3Checkpoint(Path(folder)).layer("model.layers.0.mlp.up_proj")


def test_without_a_gpu_nothing_of_it_is_usable(gptqmodel_library, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ExllamaV3.unavailable_reason() == "exllamav3 runs on a CUDA GPU alone, and torch sees none"


def test_the_registry_knows_it():
    assert find_runtime("exllamav3") is ExllamaV3
