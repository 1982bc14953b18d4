"""What each kernel of GPTQModel refuses, by cell; no GPU is asked where the cell itself is at fault."""

import pytest
import torch

from memfloor.record import Cell
from memfloor.runtimes.gptq_kernels import KERNELS, kernel_reason
from memfloor.spec import Workload, load_model, model_names

CUDA_KERNELS = [name for name, kernel in KERNELS.items() if kernel.device == "cuda"]


def cell_of(name, spec=None, **changes):
    kernel = KERNELS[name]
    dtype = next(iter(kernel.operators))
    formats = {"weights": kernel.weights, "head": dtype, "kv": dtype} | changes
    workload = Workload.of(8, 1, formats["weights"], formats["kv"], formats["head"])
    device = changes.get("device", kernel.device)
    return Cell(spec=spec or load_model("qwen2.5-0.5b"), workload=workload, runtime="gptqmodel", device=device)


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_catalogued_model_has_every_kernel(hopper, kernel, name):
    assert kernel_reason(kernel, cell_of(kernel, load_model(name))) is None


@pytest.mark.parametrize(
    ("kernel", "changes", "reason"),
    [
        (
            "marlin-awq",
            {"device": "cpu"},
            "kernel marlin-awq needs a CUDA GPU; on a CPU: kernel=aten-awq or kernel=aten-gptq",
        ),
        (
            "aten-gptq",
            {"device": "cuda"},
            "kernel aten-gptq needs a CPU; on a CUDA GPU: kernel=marlin-awq or kernel=marlin-gptq or kernel=exllamav2",
        ),
        ("marlin-gptq", {"weights": "int4-g128"}, "kernel marlin-gptq reads weights int4-g128-sym, not int4-g128"),
        ("exllamav2", {"head": "bf16"}, "kernel exllamav2 multiplies fp16, not bf16; --head fp16 --kv fp16"),
        ("aten-awq", {"head": "fp16"}, "kernel aten-awq multiplies bf16, not fp16; --head bf16 --kv bf16"),
    ],
)
def test_a_cell_without_a_path_says_so(hopper, kernel, changes, reason):
    assert kernel_reason(kernel, cell_of(kernel, **changes)) == reason


@pytest.mark.parametrize(
    ("kernel", "multiple", "head_dim"), [("marlin-awq", 64, 40), ("exllamav2", 32, 24), ("aten-gptq", 16, 12)]
)
def test_rows_that_a_kernel_cannot_tile_say_so(hopper, kernel, multiple, head_dim):
    spec = load_model("qwen2.5-0.5b").model_copy(update={"head_dim": head_dim})
    heads = spec.num_attention_heads
    reason = kernel_reason(kernel, cell_of(kernel, spec))
    assert reason == f"kernel {kernel} needs rows in multiples of {multiple}, and q_proj has {heads * head_dim}"


@pytest.mark.parametrize("kernel", CUDA_KERNELS)
def test_a_gpu_that_is_too_old_says_so(monkeypatch, kernel):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 1))
    least = ".".join(map(str, KERNELS[kernel].capability))
    reason = kernel_reason(kernel, cell_of(kernel))
    assert reason == f"kernel {kernel} needs compute capability {least}, and this GPU has 6.1"
