"""GPTQModel on the CPU: its int4 kernels really run, and it reads back what its CUDA layers are filled with."""

import json
import sys

import pytest
import torch

from memfloor.errors import UsageError
from memfloor.floor import step_traffic
from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.runtimes.gptq_checkpoint import ONES, PackedCheckpoint, Packing, read_packing
from memfloor.runtimes.gptq_kernels import KERNELS
from memfloor.runtimes.gptq_operators import gptqmodel_module, load_operators, operators_file
from memfloor.runtimes.gptq_packing import pack, round_to_nearest
from memfloor.runtimes.gptqmodel import GptqModel, GptqModelStatic, make_layer
from memfloor.runtimes.hf_model import load_model
from memfloor.runtimes.hf_quantized import projection_names

CPU_KERNELS = [name for name, kernel in KERNELS.items() if kernel.device == "cpu"]
SHAPE = {"hidden_size": 256, "intermediate_size": 384}


@pytest.fixture
def asked(request_for, tiny):
    """Return a function that makes a request for a kernel, in the formats it reads."""

    def make(kernel="aten-gptq", runtime="gptqmodel", family="qwen2", options=None, **request):
        made = request_for(runtime, spec=tiny(family, **SHAPE), weights="bf16", **request)
        formats = {"weights": KERNELS[kernel].weights}
        update = {
            "workload": made.cell.workload.model_copy(update=formats),
            "options": {"kernel": kernel, **(options or {})},
            "device": KERNELS[kernel].device,
        }
        return DecodeRequest(made.cell.model_copy(update=update), made.start_len, made.max_steps, made.seed)

    return make


@pytest.fixture
def ready(gptqmodel_library, asked):
    """Return a function that prepares GPTQModel for such a request."""

    def prepare(kernel="aten-gptq", **request):
        made = asked(kernel, **request)
        runtime = find_runtime(made.cell.runtime)
        assert runtime.unavailable_reason(made.cell) is None
        system = runtime(made)
        system.prepare()
        return system

    return prepare


@pytest.fixture
def source(checkpoint, tiny):
    """Save a seeded bf16 checkpoint whose tokens do not repeat."""
    return str(checkpoint(tiny("qwen2", **SHAPE), 5))


def dequantised(kernel, weight):
    """Return the weights [N, K] that a kernel stands for, by the codes themselves."""
    rounded = round_to_nearest(weight, 128, KERNELS[kernel].symmetric)
    zeros = rounded.zeros.float().repeat_interleave(128, 1)
    return (rounded.codes.float() - zeros) * rounded.scales.float().repeat_interleave(128, 1)


def exact_logits(system, prompt, kernel=None):
    """Return the logits of a system's source in float32, its projections rounded as for a kernel, or as they were."""
    model = load_model(system.loaded_cell(), system.request.seed).float()
    with torch.no_grad():
        for name in projection_names(model) if kernel else []:
            weight = model.get_submodule(name).weight
            weight.copy_(dequantised(kernel, weight.bfloat16()))
        return model(prompt).logits[0, -1]


def packed_folder(folder, source, method, layout, shift=0, **config):
    """Save a checkpoint as GPTQ or AWQ tools do: projections packed, and how in the config."""
    from pathlib import Path

    from safetensors.torch import load_file, save_file

    tensors = load_file(Path(source) / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        weight = tensors.pop(name).bfloat16()
        for kind, tensor in pack(round_to_nearest(weight, 128, method == "gptq"), method).items():
            tensors[name.replace("weight", kind)] = tensor - shift if kind == "qzeros" else tensor
        tensors[name.replace("weight", "g_idx")] = torch.arange(weight.shape[1], dtype=torch.int32) // 128
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    described = json.loads((Path(source) / "config.json").read_text())
    quantization = {"quant_method": method, "bits": 4, "group_size": 128, "checkpoint_format": layout, **config}
    (folder / "config.json").write_text(json.dumps({**described, "quantization_config": quantization}))
    return str(folder)


@pytest.mark.parametrize("kernel", CPU_KERNELS)
def test_logits_are_those_of_the_rounded_weights(ready, kernel):
    system = ready(kernel)
    prompt = torch.randint(320, (1, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = system.model(prompt).logits[0, -1].float()
    rounded, unrounded = exact_logits(system, prompt, kernel), exact_logits(system, prompt)
    # Activations are rounded to bf16 between operators; the weights before they were rounded are further away.
    assert (logits - rounded).norm() / rounded.norm() < 2e-2
    assert (logits - rounded).norm() < 0.3 * (logits - unrounded).norm()


@pytest.mark.parametrize(
    ("family", "kernel"),
    [("llama", "aten-awq"), ("mistral", "aten-gptq"), ("qwen2", "aten-awq"), ("qwen3", "aten-gptq")],
)
def test_every_projection_is_the_kernels_own_product(ready, family, kernel):
    system = ready(kernel, family=family)
    system.step()
    path = system.observed_path()
    # Seven projections in each of two layers.
    assert path.operators["aten::_weight_int4pack_mm_for_cpu"] == 14
    assert path.facts["path"] == "own product: aten::_weight_int4pack_mm_for_cpu x14, 14 projections"
    assert path.facts["projections"] == KERNELS[kernel].layer
    assert (path.facts["kernel"], path.facts["quantised"]) == (kernel, "rounded to nearest, no calibration")


@pytest.mark.parametrize("kernel", CPU_KERNELS)
def test_the_tensors_read_are_the_bytes_of_the_format(ready, kernel):
    system = ready(kernel)
    cell = system.request.cell
    traffic = step_traffic(cell.spec, cell.workload, "blocks")
    # Of each layer: q and o 256 x 256, k and v 128 x 256, gate and up 384 x 256, down 256 x 384.
    weights = 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 384 * 256)
    assert traffic.attention_weights + traffic.mlp_weights == weights // 2
    assert traffic.scales == weights // 128 * 4
    assert int(system.facts()["projection_bytes"]) == weights // 2 + weights // 128 * 4


def test_a_layer_that_takes_another_path_is_flagged(ready):
    system = ready("aten-gptq")
    layer = system.model.get_submodule(projection_names(system.model)[3])
    fresh = torch.nn.Linear(layer.in_features, layer.out_features, bias=False, dtype=torch.bfloat16)
    replaced = make_layer(KERNELS["aten-gptq"], fresh, pack(round_to_nearest(fresh.weight, 128, True), "gptq"))
    replaced.post_init()
    # What it does where it may be trained: write 16-bit weights, and multiply by those.
    replaced.linear_mode, replaced.scales_and_zeros = "train", torch.empty(0)
    system.model.set_submodule(projection_names(system.model)[3], replaced)
    taken = system.observed_path().facts["path"]
    assert taken.startswith("not aten-gptq, aten::_weight_int4pack_mm_for_cpu x13 for 14 projections; mixed: ")


@pytest.mark.parametrize(
    ("method", "layout", "shift"), [("gptq", "gptq_v2", 0), ("gptq", "gptq", ONES), ("awq", "gemm", 0)]
)
def test_a_packed_checkpoint_decodes_as_its_source_rounded_in_place(ready, source, tmp_path, method, layout, shift):
    folder = packed_folder(tmp_path / "packed", source, method, layout, shift)
    packed = ready(f"aten-{method}", weights_from=folder)
    assert packed.facts()["quantised"] == "packed checkpoint"
    assert packed.outputs(6) == ready(f"aten-{method}", weights_from=source).outputs(6)


@pytest.mark.parametrize(("rows", "columns"), [(64, 128), (96, 384), (136, 256)])
def test_the_library_reads_back_what_was_packed(gptqmodel_library, rows, columns):
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).half()
    gptq = pack(round_to_nearest(weight, 128, True), "gptq")
    shape = {"in_features": columns, "out_features": rows}
    layer = TorchLinear(bits=4, group_size=128, sym=True, desc_act=False, bias=False, dtype=torch.float16, **shape)
    for name, tensor in gptq.items():
        setattr(layer, name, tensor)
    # One product in float16 each, as the library computes it.
    expected = dequantised("exllamav2", weight).half()
    assert torch.equal(super(TorchLinear, layer).dequantize_weight().T, expected)
    awq = pack(round_to_nearest(weight, 128, False), "awq")
    read = dequantize_gemm(awq["qweight"], awq["qzeros"], awq["scales"], bits=4, group_size=128)
    assert torch.equal(read.T, dequantised("marlin-awq", weight).half())


@pytest.mark.parametrize("kernel", [name for name, its in KERNELS.items() if its.device == "cuda"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_layers_for_a_gpu_hold_what_was_packed(gptqmodel_library, monkeypatch, kernel, bias):
    described = KERNELS[kernel]
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[next(iter(described.operators))]
    allow_without_gpu(monkeypatch, described)
    linear = torch.nn.Linear(256, 192, bias=bias, dtype=dtype)
    packed = pack(round_to_nearest(linear.weight, 128, described.symmetric), described.method)
    layer = make_layer(described, linear, packed)
    assert type(layer).__name__ == described.layer
    assert all(torch.equal(getattr(layer, name), tensor) for name, tensor in packed.items())
    assert layer.scales.dtype == dtype
    assert bias == (layer.bias is not None and torch.equal(layer.bias, linear.bias))
    if kernel == "exllamav2":
        assert not layer.g_idx.any()


def allow_without_gpu(monkeypatch, kernel):
    """Let the library make a layer that it makes only beside a GPU; nothing of it is called."""
    from importlib import import_module

    module = import_module(f"gptqmodel.nn_modules.qlinear.{kernel.module}")
    if hasattr(module, "marlin_import_exception"):
        monkeypatch.setattr(module, "marlin_import_exception", None)
    monkeypatch.setattr(getattr(module, kernel.layer), "cached_validate_once", lambda: (True, None))


def test_a_static_cache_decodes_by_the_same_kernel(ready):
    static = ready("aten-gptq", runtime="gptqmodel-static", options={"launch": "eager"})
    static.step()
    facts = static.observed_path().facts
    assert (facts["cache_class"], facts["launch"]) == ("StaticCache", "eager")
    assert facts["path"].startswith("own product: ")


@pytest.mark.parametrize("missing", ["gptqmodel", "pcre"])
def test_a_missing_library_is_a_reason_with_the_install_line(monkeypatch, missing):
    monkeypatch.setattr("memfloor.runtimes.library.find_spec", lambda name: None if name == missing else object())
    assert GptqModel.unavailable_reason() == f"{missing} is not installed; pip install 'memfloor[gptq]'"


@pytest.mark.parametrize("found", ["7.3.4", "7.7.0"])
def test_a_version_that_was_not_tried_is_a_reason(monkeypatch, found):
    monkeypatch.setattr("memfloor.runtimes.library.find_spec", lambda name: object())
    monkeypatch.setattr("memfloor.runtimes.library.version", lambda name: found)
    wanted = "pip install 'memfloor[gptq]', which needs gptqmodel>=7.4,<7.5"
    assert GptqModel.unavailable_reason() == f"gptqmodel {found} was not tried; {wanted}"


def test_asking_what_runs_here_imports_nothing_of_the_library():
    import subprocess

    code = "import os, sys; from memfloor.runtimes import find_runtime; before = dict(os.environ)\n"
    code += "find_runtime('gptqmodel').unavailable_reason(); assert 'gptqmodel' not in sys.modules\n"
    code += "assert dict(os.environ) == before"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weights": "bf16"}, "gptqmodel runs weights int4-g128, int4-g128-sym, int4-g128-zp, not bf16"),
        ({"weights": "int4-g128-sym"}, "gptqmodel runs weights int4-g128-sym on cuda, not on cpu"),
        ({"head": "fp16"}, "gptqmodel keeps the KV cache in the head's type fp16, not bf16; --kv fp16"),
        ({"head": "int8"}, "gptqmodel keeps the head in bf16, fp16, not int8; --head bf16"),
    ],
)
def test_formats_without_a_path_say_so(asked, changes, reason):
    cell = asked().cell
    workload = cell.workload.model_copy(update=changes)
    assert GptqModel.refused_formats(cell.model_copy(update={"workload": workload})) == reason


def test_a_group_that_does_not_divide_the_columns_says_so(asked, tiny):
    cell = asked().cell.model_copy(update={"spec": tiny("qwen2", **{**SHAPE, "intermediate_size": 320})})
    reason = "groups of 128 weights, as in int4-g128, do not divide the 320 columns of down_proj"
    assert GptqModel.refused_formats(cell) == reason


def test_the_default_kernel_of_a_cpu_cell_names_those_that_run_there(asked):
    cell = asked().cell.model_copy(update={"options": {}})
    reason = "kernel marlin-awq needs a CUDA GPU; on a CPU: kernel=aten-awq or kernel=aten-gptq"
    assert GptqModel.refused_formats(cell) == reason


def test_prebuilt_operators_that_are_not_there_say_where_they_belong(asked, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cell = asked("marlin-awq", options={"operators": "prebuilt"}).cell
    file = tmp_path / "memfloor" / "gptqmodel" / "gptqmodel_marlin_bf16_ops.so"
    assert operators_file("marlin_bf16") == file
    reason = f"operators=prebuilt needs {file}, which is not there; operators=jit compiles it"
    assert GptqModel.library_refuses(cell) == reason
    file.parent.mkdir(parents=True)
    file.touch()
    assert GptqModel.library_refuses(cell) is None
    reason = "kernel aten-gptq has no operators of its own; operators=jit"
    assert GptqModel.library_refuses(asked(options={"operators": "prebuilt"}).cell) == reason


def test_operators_and_a_library_that_do_not_load_say_what_was_said(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    operators_file("exllamav2").parent.mkdir(parents=True)
    operators_file("exllamav2").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"gptqmodel_exllamav2_ops\.so does not load: .*"):
        load_operators("exllamav2", prebuilt=True)

    def fail(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("memfloor.runtimes.gptq_operators.import_module", fail)
    with pytest.raises(UsageError, match=r"^gptqmodel does not load: operator torchvision::nms does not exist$"):
        gptqmodel_module("extension")


def test_no_cuda_graph_holds_exllamav2(asked):
    cell = asked("exllamav2", "gptqmodel-static", options={"launch": "graph"}).cell
    reason = "kernel exllamav2 launches on the default stream, which no CUDA Graph captures; launch=eager"
    assert GptqModelStatic.library_refuses(cell) == reason
    assert GptqModelStatic.library_refuses(asked("marlin-gptq", options={"launch": "graph"}).cell) is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"bits": 3}, "bits 3 are not 4"),
        ({"group_size": 32}, "group_size 32 is not 128"),
        ({"checkpoint_format": "marlin"}, "layout marlin is not gptq or gptq_v2"),
        ({"desc_act": True}, "desc_act reorders columns; save it without"),
        ({"lm_head": True}, "its head is quantised too"),
        ({"dynamic": {"q_proj": {"bits": 8}}}, "its layers are quantised in different ways"),
    ],
)
def test_a_packed_checkpoint_without_a_path_says_so(source, tmp_path, config, reason):
    folder = packed_folder(tmp_path / "packed", source, "gptq", "gptq", **config)
    with pytest.raises(UsageError, match=f"{folder}: {reason}"):
        read_packing(folder)


def test_another_method_than_the_kernels_says_so(asked, source, tmp_path):
    folder = packed_folder(tmp_path / "packed", source, "awq", "gemm")
    cell = asked("aten-gptq", weights_from=folder).cell
    assert GptqModel.refused_checkpoint(cell) == f"{folder} is packed for awq, and kernel aten-gptq reads gptq"
    unknown = packed_folder(tmp_path / "other", source, "gptq", "gptq", quant_method="hqq")
    reason = GptqModel.refused_checkpoint(asked("aten-gptq", weights_from=unknown).cell)
    assert reason == f"unknown quant_method of {unknown} 'hqq'; allowed: awq, gptq"
    own_zeros = packed_folder(tmp_path / "zeros", source, "gptq", "gptq", sym=False)
    reason = GptqModel.refused_checkpoint(asked("marlin-gptq", weights_from=own_zeros).cell)
    assert reason == f"{own_zeros} has zeros of its own, and kernel marlin-gptq reads symmetric weights"


def test_a_packed_checkpoint_that_lacks_or_reorders_a_layer_says_so(source, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = packed_folder(tmp_path / "packed", source, "gptq", "gptq_v2")
    file = tmp_path / "packed" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj"
    tensors[f"{name}.g_idx"] = tensors[f"{name}.g_idx"].flip(0)
    del tensors["model.layers.0.mlp.up_proj.scales"]
    save_file(tensors, file)
    packed = PackedCheckpoint(tmp_path / "packed", Packing("gptq", True, False), "cpu")
    with pytest.raises(UsageError, match=f"{name} in {folder} has its columns reordered"):
        packed.layer(name)
    with pytest.raises(UsageError, match=r"lacks the tensor model\.layers\.0\.mlp\.up_proj\.scales"):
        packed.layer("model.layers.0.mlp.up_proj")
