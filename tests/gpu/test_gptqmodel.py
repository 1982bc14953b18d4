"""GPTQModel's CUDA kernels: the logits of their rounded weights, the bytes and the path recorded, and a capture.

The first run of a kernel compiles its operators, which takes minutes; docs/gptqmodel.md says how to bring them along.
"""

import warnings

import pytest
import torch

from memfloor.floor import step_traffic
from memfloor.record import Cell
from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.runtimes.gptq_kernels import KERNELS
from memfloor.runtimes.gptq_packing import round_to_nearest
from memfloor.runtimes.hf_model import load_model
from memfloor.runtimes.hf_quantized import projection_names
from memfloor.spec import Workload
from memfloor.spec import load_model as load_spec

pytestmark = pytest.mark.gpu
CUDA_KERNELS = [name for name, kernel in KERNELS.items() if kernel.device == "cuda"]
LAYERS = 2


def prepare(kernel, runtime="gptqmodel", **options):
    """Prepare two layers of Qwen2.5-0.5B by a kernel, or skip where it says that it cannot run."""
    spec = load_spec("qwen2.5-0.5b").model_copy(update={"num_hidden_layers": LAYERS})
    dtype = next(iter(KERNELS[kernel].operators))
    workload = Workload.of(502, 1, KERNELS[kernel].weights, dtype, dtype)
    options = {"kernel": kernel, **options}
    cell = Cell(spec=spec, workload=workload, runtime=runtime, options=options, device="cuda")
    reason = find_runtime(runtime).unavailable_reason(cell)
    if reason is not None:
        pytest.skip(reason)
    system = find_runtime(runtime)(DecodeRequest(cell, start_len=500, max_steps=20, seed=1))
    with warnings.catch_warnings():
        # Of the library and of what it imports.
        warnings.simplefilter("ignore")
        system.prepare()
    return system


def exact_logits(system, token):
    """Return the logits of one token in float32, over weights rounded as the kernel's are."""
    model = load_model(system.loaded_cell(), system.request.seed)
    with torch.no_grad():
        for name in projection_names(model):
            linear = model.get_submodule(name)
            rounded = round_to_nearest(linear.weight, 128, system.kernel.symmetric)
            zeros = rounded.zeros.float().repeat_interleave(128, 1)
            codes = rounded.codes.float() - zeros
            linear.float().weight.copy_(codes * rounded.scales.float().repeat_interleave(128, 1))
        return model.float()(token).logits[0, -1]


@pytest.mark.parametrize("kernel", CUDA_KERNELS)
def test_logits_are_those_of_the_rounded_weights(kernel):
    system = prepare(kernel)
    token = torch.tensor([[77]], device="cuda")
    with torch.no_grad():
        logits = system.model(token).logits[0, -1].float()
    exact = exact_logits(system, token)
    # Activations are 16 bits wide between operators, and ExLlamaV2 adds its parts in float16.
    assert float((logits - exact).norm() / exact.norm()) < 2e-2


@pytest.mark.parametrize("kernel", CUDA_KERNELS)
def test_the_kernel_asked_for_multiplies_every_projection_and_reads_its_formats_bytes(kernel):
    system = prepare(kernel)
    system.step()
    path, cell = system.observed_path(), system.request.cell
    operator = KERNELS[kernel].operators[cell.workload.head]
    assert path.operators[operator] == 7 * LAYERS
    assert path.facts["path"] == f"own product: {operator} x{7 * LAYERS}, {7 * LAYERS} projections"
    assert path.facts["projections"] == KERNELS[kernel].layer
    traffic = step_traffic(cell.spec, cell.workload, "blocks")
    read = traffic.attention_weights + traffic.mlp_weights + traffic.scales
    assert int(path.facts["projection_bytes"]) == read


@pytest.mark.parametrize("kernel", [name for name in CUDA_KERNELS if KERNELS[name].capturable])
def test_a_captured_step_gives_the_logits_of_an_eager_one(kernel):
    eager, graph = (prepare(kernel, "gptqmodel-static", launch=launch) for launch in ("eager", "graph"))
    for _ in range(4):
        # Marlin adds parts in no fixed order, so that bits may differ; both go on from the same token.
        expected, found = eager.step_with_logits().float(), graph.step_with_logits().float()
        assert float((found - expected).norm() / expected.norm()) < 2e-2
        graph.token.copy_(eager.token)
    assert graph.observed_path().facts["launch"] == "one CUDA Graph replay per step"
