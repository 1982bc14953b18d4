import shutil
import sysconfig

import pytest
import torch

from memfloor.errors import UsageError
from memfloor.runtimes import find_runtime, hf_compile
from memfloor.runtimes.hf_compile import HfCompile
from memfloor.runtimes.inductor import KERNEL_CALL, compiled_graphs

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
STEPS = 8


@pytest.fixture(autouse=True)
def _nothing_compiled():
    """Start each test as a run starts: with no graph compiled in this process."""
    from torch._dynamo.utils import counters
    from torch._inductor.codecache import PyCodeCache

    torch._dynamo.reset()
    PyCodeCache.cache_clear()
    counters.clear()


@pytest.fixture
def traced(monkeypatch):
    """Trace the step as one graph but run it by torch's own operators: what Inductor adds takes seconds."""
    monkeypatch.setattr(hf_compile, "BACKEND", "eager")


def decode(system, steps=STEPS):
    tokens = []
    for _ in range(steps):
        system.step()
        tokens.append(system.token.flatten().tolist())
    return tokens


@pytest.mark.skipif(HfCompile.unavailable_reason() is not None, reason=str(HfCompile.unavailable_reason()))
def test_a_compiled_step_decodes_what_an_eager_one_does(prepared):
    compiled = prepared("hf-compile")
    assert decode(compiled, 7) == decode(prepared("hf-eager"), 7)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()

    # The last of the eight steps that were asked for.
    path = compiled.observed_path()
    assert int(compiled.cache.get_seq_length()) == 7 + 8
    # Seven projections in each of two layers, and the head.
    products = ("extern_kernels.mm", "extern_kernels.addmm")
    assert sum(path.operators.get(name, 0) for name in products) == 15, path.operators
    assert any("_scaled_dot_product_" in name for name in path.operators), path.operators
    assert path.facts["launch"] == "torch.compile, mode default"
    assert (path.facts["graphs"], path.facts["graph_breaks"]) == ("1", "0")
    assert path.facts["recompiles_after_warm_up"] == "0"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_one_graph_that_decodes_what_eager_does(traced, prepared, tiny, family):
    compiled = prepared("hf-compile", spec=tiny(family), seed=2)
    tokens = decode(compiled)
    assert tokens == decode(prepared("hf-eager", spec=tiny(family), seed=2))
    compiled.rewind()
    assert decode(compiled) == tokens
    facts = compiled.facts()
    assert facts["cache_class"] == "StaticCache"
    assert compiled_graphs() == 1


def test_the_cache_starts_at_start_len_after_the_warm_up(traced, prepared):
    system = prepared("hf-compile", start_len=7)
    assert int(system.cache.get_seq_length()) == 7
    system.step()
    assert int(system.cache.get_seq_length()) == 8


def test_forced_logits_from_an_empty_cache_are_those_of_the_eager_step(traced, prepared):
    tokens = [3, 1, 4, 1, 5]
    compiled, eager = (prepared(name, start_len=0).forced_logits(tokens) for name in ("hf-compile", "hf-eager"))
    # Nothing but the order of float32 sums of at most 96 terms of order one.
    torch.testing.assert_close(torch.tensor(compiled), torch.tensor(eager), rtol=1e-5, atol=96 * 2.0**-23)


def test_a_prefill_is_taken_again_after_the_warm_up(traced, prepared):
    compiled = prepared("hf-compile", prefill=True, batch=2)
    assert decode(compiled) == decode(prepared("hf-eager", prefill=True, batch=2))


def test_a_control_loop_starts_every_cycle_at_the_prompt_in_the_buffers_that_were_compiled(traced, prepared):
    system = prepared("hf-compile", prefill=True)
    first = decode(system, 4)
    for start in (system.rewind, system.prefill):
        start()
        assert decode(system, 4) == first
    assert compiled_graphs() == 1


def test_the_mode_suits_the_device_unless_given(request_for):
    request = request_for("hf-compile")
    assert HfCompile(request).mode == "default"
    on_gpu = request.__class__(request.cell.model_copy(update={"device": "cuda"}), 7, 8)
    assert HfCompile(on_gpu).mode == "reduce-overhead"
    assert HfCompile(request_for("hf-compile", options={"mode": "reduce-overhead"})).mode == "reduce-overhead"


@pytest.mark.parametrize(
    ("device", "options", "one_by_one"),
    [
        ("cuda", {}, False),
        ("cuda", {"mode": "reduce-overhead"}, False),
        ("cuda", {"mode": "default"}, True),
        ("cuda", {"mode": "max-autotune-no-cudagraphs"}, True),
        ("cpu", {}, False),
    ],
)
def test_kernels_are_launched_one_by_one_on_a_gpu_without_cuda_graphs(request_for, device, options, one_by_one):
    cell = request_for("hf-compile", options=options).cell.model_copy(update={"device": device})
    assert HfCompile.launches_one_by_one(cell) == one_by_one


def test_a_trace_can_name_compiled_kernels_of_a_gpu_alone(request_for):
    request = request_for("hf-compile")
    assert HfCompile(request).traced_parts() is None
    on_gpu = request.__class__(request.cell.model_copy(update={"device": "cuda"}), 7, 8)
    assert HfCompile(on_gpu).traced_parts() is not None


def test_without_a_compiler_the_reason_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    reason = HfCompile.unavailable_reason()
    assert reason == "torch.compile needs a C++ compiler and finds no g++; install one (Debian: apt install g++)"


def test_without_the_headers_of_python_the_reason_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    reason = HfCompile.unavailable_reason()
    assert reason == "torch.compile needs Python's headers; install them (Debian: apt install python3-dev)"


def test_quantised_weights_are_refused_as_by_the_eager_path(request_for):
    cell = request_for("hf-compile", weights="bf16").cell
    workload = cell.workload.model_copy(update={"weights": "int8"})
    reason = HfCompile.unavailable_reason(cell.model_copy(update={"workload": workload}))
    assert reason == "hf-compile runs weights bf16, fp16, fp32, not int8 with head bf16"


def test_a_sliding_window_is_refused(request_for, tiny):
    spec = tiny("mistral", sliding_window=16)
    assert HfCompile.unavailable_reason(request_for("hf-compile", spec=spec).cell) is not None


def test_a_step_before_prepare_is_refused(request_for):
    with pytest.raises(UsageError, match="prepare the runtime"):
        find_runtime("hf-compile")(request_for("hf-compile")).step()


def test_kernel_calls_are_read_from_generated_code():
    code = """
    def call(self, args):
        cpp_fused_add_0(arg0_1, buf0)
        extern_kernels.mm(buf0, arg1_1, out=buf1)
        buf2 = torch.ops.aten._flash.default(buf1)
        triton_poi_fused_mul_1.run(buf2, 64, stream=stream0)
        del buf1
    """
    found = ["cpp_fused_add_0", "extern_kernels.mm", "torch.ops.aten._flash.default", "triton_poi_fused_mul_1"]
    assert KERNEL_CALL.findall(code) == found
