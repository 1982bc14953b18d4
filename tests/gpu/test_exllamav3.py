"""EXL3's CUDA kernels: the logits of their trellises, the bytes and the path recorded.

The first run compiles them, which takes a minute or more.
"""

import warnings

import pytest
import torch

from memfloor.floor import step_traffic
from memfloor.record import Cell
from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.runtimes.gptq_operators import gptqmodel_module
from memfloor.runtimes.hf_model import load_model
from memfloor.runtimes.hf_quantized import projection_names
from memfloor.spec import Workload
from memfloor.spec import load_model as load_spec

pytestmark = pytest.mark.gpu
LAYERS = 2
OPERATOR = "gptqmodel_exllamav3::bc_linear_exl3_run"


@pytest.fixture
def system():
    """Prepare two layers of Qwen2.5-0.5B, or skip where they say that they cannot run."""
    spec = load_spec("qwen2.5-0.5b").model_copy(update={"num_hidden_layers": LAYERS})
    workload = Workload.of(502, 1, "exl3-4", "fp16", "fp16")
    cell = Cell(spec=spec, workload=workload, runtime="exllamav3", device="cuda")
    reason = find_runtime("exllamav3").unavailable_reason(cell)
    if reason is not None:
        pytest.skip(reason)
    made = find_runtime("exllamav3")(DecodeRequest(cell, start_len=500, max_steps=20, seed=1))
    with warnings.catch_warnings():
        # Of the library and of what it imports.
        warnings.simplefilter("ignore")
        made.prepare()
    return made


def held_weight(layer):
    """Return what a layer multiplies by, [N, K] in float32, as the library's reference in torch reads it."""
    tensors = {name: tensor.cpu() for name, tensor in layer.named_buffers()}
    reference = gptqmodel_module("nn_modules.exllamav3_torch").ExllamaV3TorchLinear.from_tensors(
        in_features=layer.in_features, out_features=layer.out_features, name="", tensors=tensors
    )
    return reference.get_weight_tensor().T


# Up to 32 rows go through the kernel of a decode step; beyond that weights are unpacked, as for a prompt.
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_logits_are_those_of_the_trellises(system, tokens):
    prompt = torch.arange(tokens, device="cuda")[None] + 77
    exact = load_model(system.loaded_cell(), system.request.seed).float()
    with torch.no_grad():
        for name in projection_names(exact):
            exact.get_submodule(name).weight.copy_(held_weight(system.model.get_submodule(name)))
        logits, expected = system.model(prompt).logits[0, -1].float(), exact(prompt).logits[0, -1]
    # Activations are float16 between operators, and rotated in float16 within them.
    assert float((logits - expected).norm() / expected.norm()) < 2e-2


def test_the_kernel_multiplies_every_projection_and_reads_its_formats_bytes(system):
    system.step()
    path, cell = system.observed_path(), system.request.cell
    assert path.operators[OPERATOR] == 7 * LAYERS
    assert path.facts["path"] == f"own product: {OPERATOR} x{7 * LAYERS}, {7 * LAYERS} projections"
    assert path.facts["projections"] == "ExllamaV3Linear"
    traffic = step_traffic(cell.spec, cell.workload, "blocks")
    read = traffic.attention_weights + traffic.mlp_weights + traffic.scales
    assert int(path.facts["projection_bytes"]) == read
