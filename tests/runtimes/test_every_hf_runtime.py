import sys

import pytest
import torch

from memfloor.record import ObservedPath
from memfloor.runtimes import REGISTRY
from memfloor.runtimes.hf import HfEager
from memfloor.runtimes.hf_compile import HfCompile
from memfloor.runtimes.hf_quantized import HfQuantized

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
# What is compiled takes seconds to prepare, and shows no operators to a census: `test_hf_compile.py` tests it. What is
# quantised runs other formats: `test_hf_quantized.py` tests it.
OTHERS = (HfCompile, HfQuantized)
UNCOMPILED = [name for name, kind in REGISTRY.items() if issubclass(kind, HfEager) and not issubclass(kind, OTHERS)]
each_runtime = pytest.mark.parametrize("runtime", UNCOMPILED)
each_family = pytest.mark.parametrize("family", FAMILIES)


def logits_of(system):
    """Take one step and return the logits that it computed."""
    seen = []
    handle = system.model.register_forward_hook(lambda module, arguments, output: seen.append(output.logits))
    system.step()
    handle.remove()
    return seen[0]


@each_family
@each_runtime
@pytest.mark.parametrize("weights", ["bf16", "fp32"])
def test_steps_give_finite_logits_and_known_tokens(prepared, tiny, runtime, family, weights):
    system = prepared(runtime, spec=tiny(family), weights=weights)
    for _ in range(3):
        logits = logits_of(system)
        assert torch.isfinite(logits).all()
        assert logits.shape == (1, 1, 320)
        assert system.token.shape == (1, 1)
        assert 0 <= int(system.token) < 320


@each_family
@each_runtime
def test_the_cache_starts_at_start_len_and_grows_by_one_a_step(prepared, tiny, runtime, family):
    system = prepared(runtime, spec=tiny(family), start_len=7)
    lengths = [int(system.cache.get_seq_length())]
    for _ in range(4):
        system.step()
        lengths.append(int(system.cache.get_seq_length()))
    assert lengths == [7, 8, 9, 10, 11]


@each_runtime
def test_every_step_of_a_request_and_the_census_fit(prepared, runtime):
    system = prepared(runtime, start_len=3, max_steps=5)
    for _ in range(4):
        system.step()
    assert isinstance(system.observed_path(), ObservedPath)
    assert int(system.cache.get_seq_length()) == 3 + 5


@each_runtime
@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_decodes_one_token_per_sequence(prepared, runtime, batch):
    system = prepared(runtime, batch=batch)
    system.step()
    assert system.token.shape == (batch, 1)


@each_runtime
def test_the_same_seed_decodes_the_same_tokens(prepared, runtime):
    assert decode(prepared(runtime, seed=5), 6) == decode(prepared(runtime, seed=5), 6)


@each_runtime
def test_another_seed_gives_another_model(prepared, runtime):
    assert not torch.equal(logits_of(prepared(runtime, seed=1)), logits_of(prepared(runtime, seed=2)))


@each_runtime
def test_a_prefill_fills_the_cache_to_start_len(prepared, runtime):
    system = prepared(runtime, prefill=True, start_len=9)
    assert int(system.cache.get_seq_length()) == 9
    assert torch.isfinite(logits_of(system)).all()


@each_runtime
def test_a_prefill_longer_than_a_chunk_fills_the_same_cache_as_one_pass(prepared, monkeypatch, runtime):
    whole = logits_of(prepared(runtime, prefill=True, start_len=11))
    monkeypatch.setattr("memfloor.runtimes.hf.PREFILL_CHUNK_TOKENS", 4)
    chunked = logits_of(prepared(runtime, prefill=True, start_len=11))
    # Nothing is rounded but float32 sums of at most 96 terms of order one.
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=96 * torch.finfo(torch.float32).eps)


@each_runtime
def test_a_prefill_is_not_the_synthetic_cache(prepared, runtime):
    assert not torch.equal(logits_of(prepared(runtime, prefill=True)), logits_of(prepared(runtime, prefill=False)))


@each_family
@each_runtime
def test_the_census_finds_one_fused_attention_per_layer(prepared, tiny, runtime, family):
    operators = prepared(runtime, spec=tiny(family), weights="bf16").observed_path().operators
    fused = {name: calls for name, calls in operators.items() if "scaled_dot_product" in name}
    assert sum(fused.values()) == 2, operators


@each_runtime
def test_the_census_counts_every_projection(prepared, runtime):
    operators = prepared(runtime).observed_path().operators
    products = sum(calls for name, calls in operators.items() if name.split(".")[0] in {"aten::mm", "aten::addmm"})
    # Seven projections in each of two layers, and the head.
    assert products == 15, operators


@each_runtime
def test_the_observed_path_names_what_ran(prepared, runtime):
    facts = prepared(runtime, weights="bf16").observed_path().facts
    assert facts["attention_implementation"] == "sdpa"
    assert facts["model_class"] == "Qwen2ForCausalLM"
    assert facts["cache_class"] == {"hf-eager": "DynamicCache", "hf-static": "StaticCache"}[runtime]
    assert (facts["weights_dtype"], facts["weights_device"]) == ("torch.bfloat16", "cpu")
    assert facts["launch"] == "eager"


@each_runtime
def test_threads_reach_the_framework(prepared, runtime):
    prepared(runtime, threads=1)
    assert torch.get_num_threads() == 1
    assert prepared(runtime, threads=2).observed_path().facts["torch_threads"] == "2"


@each_runtime
@pytest.mark.parametrize("weights", ["int8", "int4-g128", "nf4", "fp8"])
def test_quantised_weights_have_no_path_and_say_so(request_for, runtime, weights):
    cell = request_for(runtime).cell
    assert REGISTRY[runtime].unavailable_reason(cell) is None
    workload = cell.workload.model_copy(update={"weights": weights, "head": "bf16", "kv": "bf16"})
    reason = REGISTRY[runtime].unavailable_reason(cell.model_copy(update={"workload": workload}))
    assert reason == f"{runtime} runs weights bf16, fp16, fp32, not {weights} with head bf16"


@each_runtime
def test_another_type_of_cache_has_no_path_and_says_so(request_for, runtime):
    cell = request_for(runtime, weights="bf16").cell
    workload = cell.workload.model_copy(update={"kv": "int8"})
    reason = REGISTRY[runtime].unavailable_reason(cell.model_copy(update={"workload": workload}))
    assert reason == f"{runtime} keeps the KV cache in the weights' type bf16, not int8"


@each_runtime
def test_another_type_of_head_has_no_path_and_says_so(request_for, runtime):
    cell = request_for(runtime, weights="bf16").cell
    workload = cell.workload.model_copy(update={"head": "int8"})
    reason = REGISTRY[runtime].unavailable_reason(cell.model_copy(update={"workload": workload}))
    assert "not bf16 with head int8" in reason


@each_runtime
def test_a_pinned_attention_needs_a_gpu(request_for, runtime):
    reason = REGISTRY[runtime].unavailable_reason(request_for(runtime, options={"sdpa": "flash"}).cell)
    assert reason == "sdpa back ends are pinned on a CUDA GPU only"


@each_runtime
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_cuda_cell_needs_a_gpu(request_for, runtime):
    cell = request_for(runtime).cell.model_copy(update={"device": "cuda"})
    assert REGISTRY[runtime].unavailable_reason(cell) == "torch sees no CUDA GPU"


@each_runtime
@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_a_missing_library_is_a_reason_with_the_install_line(monkeypatch, runtime, library):
    monkeypatch.setitem(sys.modules, library, None)
    reason = REGISTRY[runtime].unavailable_reason()
    assert reason == f"{library} is not installed; pip install 'memfloor[torch]'"


def test_a_graph_launch_needs_a_gpu(request_for):
    cell = request_for("hf-static", options={"launch": "graph"}).cell
    assert REGISTRY["hf-static"].unavailable_reason(cell) == "launch=graph needs a CUDA GPU"


def decode(system, steps):
    """Return the tokens of some steps."""
    tokens = []
    for _ in range(steps):
        system.step()
        tokens.append(system.token.flatten().tolist())
    return tokens
