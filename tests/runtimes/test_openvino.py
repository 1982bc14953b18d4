import re
from collections import Counter

import numpy as np
import pytest
import torch

from memfloor.errors import UsageError
from memfloor.floor import step_traffic
from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.runtimes.openvino import cell_reason, taken_path
from memfloor.runtimes.openvino_weights import COMPRESSIONS, build_model
from memfloor.spec import load_model, model_names

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "rope_scaling": LLAMA3}),
    ("mistral", {"num_key_value_heads": 4}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 32}),
]
# NNCF's groups of 128 divide these.
WIDE = {"hidden_size": 256, "intermediate_size": 384}
EPSILON = float(np.finfo(np.float32).eps)


@pytest.fixture
def asked(request_for):
    """Return a function that makes a request with the head that OpenVINO keeps, and a cache in float32."""

    def make(weights="fp32", kv="fp32", head=None, **request):
        made = request_for("openvino", weights="fp32", **request)
        kept = COMPRESSIONS[weights].head if weights in COMPRESSIONS else weights
        formats = {"weights": weights, "head": head or kept, "kv": kv}
        cell = made.cell.model_copy(update={"workload": made.cell.workload.model_copy(update=formats)})
        return DecodeRequest(cell, made.start_len, made.max_steps, made.seed)

    return make


@pytest.fixture
def ready(asked, comparator):
    """Return a function that prepares OpenVINO for such a request."""

    def prepare(**request):
        made = asked(**request)
        comparator("openvino")
        reason = find_runtime("openvino").unavailable_reason(made.cell)
        if reason and "this processor" in reason:
            pytest.skip(reason)
        assert reason is None
        system = find_runtime("openvino")(made)
        system.prepare()
        return system

    return prepare


def reference(folder, tokens):
    """Return the logits that transformers computes in float32 after each token."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


def some_tokens(count=12):
    return np.random.default_rng(3).integers(320, size=count).tolist()


@pytest.mark.comparators
@pytest.mark.parametrize(("family", "changes"), MODELS)
def test_logits_are_those_of_transformers(ready, tiny, checkpoint, family, changes):
    spec = tiny(family, **changes)
    folder, tokens = checkpoint(spec), some_tokens()
    expected = reference(folder, tokens)
    system = ready(spec=spec, start_len=0, max_steps=12, weights_from=str(folder))
    given = system.forced_logits(tokens)
    # Sums of at most 96 float32 terms in each of a dozen products, one after the other.
    assert abs(given - expected).max() < 12 * 96 * EPSILON * abs(expected).max()
    assert system.token == int(expected[-1].argmax())


@pytest.mark.comparators
@pytest.mark.parametrize(
    ("weights", "bound"), [("nncf-int8-sym", 0.1), ("nncf-int8-asym", 0.1), ("nncf-int4-sym-g128", 0.9)]
)
def test_compressed_weights_hold_the_bytes_of_the_floor_and_stay_near(ready, asked, tiny, checkpoint, weights, bound):
    spec = tiny("qwen2", **WIDE)
    folder, tokens = checkpoint(spec), some_tokens()
    system = ready(spec=spec, weights=weights, kv="bf16", start_len=0, max_steps=14, weights_from=str(folder))
    sizes = constant_bytes(build_model(system.request.cell, 0))
    cell = system.request.cell
    traffic = step_traffic(spec, cell.workload, "streamed")
    # The embedding table is compressed as the head is, and a step reads one row of it.
    table = 8 * spec.vocab_size * spec.hidden_size // 8
    floor = traffic.attention_weights + traffic.mlp_weights + traffic.head + traffic.scales
    table_scales = (3 if "asym" in cell.workload.head else 2) * spec.vocab_size
    assert sizes["f16"] + sizes["i8"] + sizes["u8"] + sizes["i4"] == floor + table + table_scales
    expected = reference(folder, tokens)
    error = (system.forced_logits(tokens) - expected).std() / expected.std()
    # Half a step of 1/127 or of 1/7 of the largest weight, over matrices whose errors add up, and bf16 activations.
    assert 0 < error < bound
    path = system.observed_path()
    assert path.facts["path"] == f"matrices read as {', '.join(COMPRESSIONS[weights].reads)}"


def constant_bytes(model):
    """Return the bytes of a graph's constants of two dimensions by the name of their type."""
    sizes = Counter()
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) > 1:
            sizes[node.get_element_type().to_string()] += node.get_byte_size()
    return sizes


@pytest.mark.comparators
def test_plain_weights_hold_the_bytes_of_the_floor(comparator, asked, tiny):
    comparator("openvino")
    for tied in (True, False):
        cell = asked(spec=tiny("llama", tie_word_embeddings=tied), weights="bf16", kv="bf16").cell
        traffic = step_traffic(cell.spec, cell.workload, "paper")
        matrices = traffic.attention_weights + traffic.mlp_weights + traffic.head + traffic.embedding
        assert constant_bytes(build_model(cell, 0))["bf16"] == matrices


@pytest.mark.comparators
def test_the_cache_starts_at_start_len_grows_and_holds_what_was_written(ready):
    system = ready(start_len=7, threads=1)
    numbers = system._prepared().query_state()[0].state.data
    assert numbers.shape == (1, 2, 7, 16)
    assert abs(numbers.std() - 1) < 0.2
    lengths = [system.cached_len()]
    for _ in range(3):
        system.step()
        lengths.append(system.cached_len())
    assert lengths == [7, 8, 9, 10]
    path = system.observed_path()
    assert path.facts["inference_num_threads"] == "1"
    assert path.facts["kv_cache_precision"] == "f32"
    assert path.facts["cache_fill"] == "random keys and values, written as states"
    # Seven projections in each of two layers, and the head; attention is fused with its cache.
    assert sum(count for name, count in path.operators.items() if name.startswith("FullyConnected")) == 15
    assert sum(count for name, count in path.operators.items() if name.startswith("ScaledDotProduct")) == 2
    assert path.facts["path"] == "matrices read as f32"


@pytest.mark.comparators
def test_a_prefill_in_chunks_gives_what_single_tokens_give(ready, monkeypatch):
    monkeypatch.setattr("memfloor.runtimes.openvino.PREFILL_CHUNK_TOKENS", 4)
    system, single = ready(prefill=True, start_len=11), ready(start_len=0, max_steps=20)
    prompt = np.random.default_rng(0).integers(320, size=11).tolist()
    single.forced_logits(prompt)
    np.testing.assert_allclose(system.forced_logits([5]), single.forced_logits([5]), atol=1e-4)
    assert system.observed_path().facts["cache_fill"] == "prefill of random tokens"


@pytest.mark.comparators
def test_another_release_of_openvino_is_a_reason(monkeypatch, comparator):
    comparator("openvino")
    monkeypatch.setattr("memfloor.runtimes.openvino.version", lambda name: "2025.1.0")
    reason = find_runtime("openvino").unavailable_reason()
    assert reason == "openvino 2025.1.0 was not tried; pip install 'memfloor[openvino]' brings one that was"


@pytest.mark.parametrize("library", ["openvino", "nncf"])
def test_a_missing_library_is_a_reason_with_the_install_line(monkeypatch, library):
    monkeypatch.setattr("memfloor.runtimes.library.find_spec", lambda name: None if name == library else name)
    assert (
        find_runtime("openvino").unavailable_reason() == f"{library} is not installed; pip install 'memfloor[openvino]'"
    )


def test_matrices_read_in_another_type_are_flagged():
    kernels = {"FullyConnected gemm_mlas_f32 f32": 14, "FullyConnected brgemm_avx512_bf16 u8": 1, "RMS jit f32": 5}
    assert taken_path(kernels, "nncf-int4-sym-g128") == "NOT AS ASKED: matrices read as f32, u8, not i4, u8"


def test_a_step_before_prepare_is_refused(asked):
    with pytest.raises(UsageError, match="prepare the runtime"):
        find_runtime("openvino")(asked()).step()


@pytest.mark.comparators
def test_a_cache_beyond_the_models_positions_is_refused(asked, comparator):
    comparator("openvino")
    with pytest.raises(UsageError, match="beyond tiny-qwen2's 512 positions"):
        find_runtime("openvino")(asked(start_len=508, max_steps=8)).prepare()


@pytest.mark.parametrize("name", model_names())
def test_every_catalogued_model_has_a_path(asked, name):
    spec = load_model(name)
    assert cell_reason(asked(spec=spec, weights="nncf-int4-sym-g128", kv="bf16").cell) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch": 2}, "batch 2 is not 1"),
        ({"weights": "nf4"}, "openvino runs weights bf16, fp16, fp32, nncf-int8-sym, .*, not nf4"),
        ({"weights": "nncf-int4-sym-g128", "head": "bf16"}, "in nncf-int8-asym, not bf16; --head nncf-int8-asym"),
        ({"kv": "int8"}, "openvino keeps the KV cache in bf16, fp16, fp32, not int8"),
        ({"weights": "nncf-int4-sym-g128"}, "matrices of 64, 96 columns: not all are multiples of 128"),
    ],
)
def test_cells_without_a_path_say_so(asked, changes, reason):

    assert re.search(reason, cell_reason(asked(**changes).cell))


def test_a_gpu_and_a_sliding_window_are_refused(asked, tiny):
    cell = asked().cell.model_copy(update={"device": "cuda"})
    assert cell_reason(cell) == "openvino runs on a cpu here, not on cuda"
    spec = tiny("mistral", sliding_window=16)
    assert cell_reason(asked(spec=spec).cell) == "openvino caches the whole context of sliding-window attention"
