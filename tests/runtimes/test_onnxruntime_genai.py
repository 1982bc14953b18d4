import re

import numpy as np
import pytest
import torch

from memfloor.errors import UsageError
from memfloor.floor import step_traffic
from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.runtimes.onnxruntime_genai import PRECISIONS, build_files, cell_reason
from memfloor.spec import load_model, model_names

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS = [
    ("llama", {"attention_bias": True, "mlp_bias": True, "rope_scaling": LLAMA3}),
    ("mistral", {"tie_word_embeddings": True}),
    ("qwen2", {}),
    ("qwen3", {"head_dim": 32}),
]
EPSILON = float(np.finfo(np.float32).eps)


@pytest.fixture
def asked(request_for):
    """Return a function that makes a request with the head in the weights' format and a cache in float32."""

    def make(weights="fp32", kv="fp32", head=None, **request):
        made = request_for("onnxruntime-genai", weights="fp32", **request)
        formats = {"weights": weights, "head": head or weights, "kv": kv}
        cell = made.cell.model_copy(update={"workload": made.cell.workload.model_copy(update=formats)})
        return DecodeRequest(cell, made.start_len, made.max_steps, made.seed)

    return make


@pytest.fixture
def ready(asked, comparator):
    """Return a function that prepares ONNX Runtime GenAI for such a request."""

    def prepare(**request):
        made = asked(**request)
        comparator("onnxruntime-genai", made.cell)
        system = find_runtime("onnxruntime-genai")(made)
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
@pytest.mark.parametrize(("weights", "bound"), [("ort-int8-g32", 0.15), ("ort-int4-g32", 1.0)])
def test_quantised_files_hold_the_bytes_of_the_floor_and_stay_near(ready, tiny, checkpoint, tmp_path, weights, bound):
    spec = tiny("qwen2")
    folder, tokens = checkpoint(spec), some_tokens()
    system = ready(spec=spec, weights=weights, start_len=0, max_steps=13, weights_from=str(folder))
    cell = system.request.cell
    build_files(cell, 0, tmp_path / "built")
    import onnx

    graph = onnx.load(tmp_path / "built" / "model.onnx").graph
    names = ("_Q4", "_Q8", "weight_scales")
    sizes = [len(tensor.raw_data) for tensor in graph.initializer if tensor.name.endswith(names)]
    traffic = step_traffic(spec, cell.workload)
    assert sum(sizes) == traffic.attention_weights + traffic.mlp_weights + traffic.head + traffic.scales
    expected = reference(folder, tokens)
    error = (system.forced_logits(tokens) - expected).std() / expected.std()
    # Half a step of 1/127 or of 1/7 of a block's largest weight, over matrices whose errors add up, and activations
    # that are rounded to 8 bits by blocks.
    assert 0 < error < bound
    # Q, K and V are one matrix: five products in each of two layers, and the head.
    assert system.observed_path().facts["path"] == "MatMulNBits x11"


@pytest.mark.comparators
def test_the_cache_starts_at_start_len_and_grows_by_one_a_step(ready):
    system = ready(start_len=7, threads=1)
    lengths = [system.cached_len()]
    for _ in range(3):
        system.step()
        lengths.append(system.cached_len())
    assert lengths == [7, 8, 9, 10]
    path = system.observed_path()
    assert system.cached_len() == 10
    assert path.operators["GroupQueryAttention"] == 2
    facts = path.facts
    assert (facts["threads"], facts["cache_fill"], facts["path"]) == ("1", "prefill of random tokens", "MatMul x11")


@pytest.mark.comparators
@pytest.mark.parametrize("start_len", [0, 7])
def test_a_rewound_decode_gives_the_same_again(ready, start_len):
    system = ready(start_len=start_len)
    first = system.outputs(4)
    system.rewind()
    assert system.cached_len() == start_len
    assert system.outputs(4) == first


@pytest.mark.comparators
def test_a_control_loop_starts_every_cycle_at_the_prompt(ready):
    system = ready(start_len=7)
    first = system.outputs(3)
    for start in (system.rewind, system.prefill):
        start()
        assert system.cached_len() == 7
        assert system.outputs(3) == first


@pytest.mark.comparators
def test_nothing_is_printed_and_no_file_is_left(ready, capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    system = ready(weights="ort-int4-g32")
    system.observed_path()
    del system
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.comparators
def test_another_release_is_a_reason(monkeypatch, comparator):
    comparator("onnxruntime-genai")
    monkeypatch.setattr("memfloor.runtimes.onnxruntime_genai.version", lambda name: "0.11.2")
    assert "onnxruntime-genai 0.11.2 was not tried" in find_runtime("onnxruntime-genai").unavailable_reason()


@pytest.mark.comparators
def test_a_cache_beyond_the_models_positions_is_refused(asked, comparator):
    comparator("onnxruntime-genai")
    with pytest.raises(UsageError, match="beyond tiny-qwen2's 512 positions"):
        find_runtime("onnxruntime-genai")(asked(start_len=508, max_steps=8)).prepare()


@pytest.mark.parametrize("library", ["onnxruntime_genai", "onnx"])
def test_a_missing_library_is_a_reason_with_the_install_line(monkeypatch, library):
    missing = {library: None}
    monkeypatch.setattr("memfloor.runtimes.library.find_spec", lambda name: missing.get(name, name))
    reason = find_runtime("onnxruntime-genai").unavailable_reason()
    assert reason == f"{library} is not installed; pip install 'memfloor[torch,onnxruntime-genai]'"


def test_a_step_before_prepare_is_refused(asked):
    with pytest.raises(UsageError, match="prepare the runtime"):
        find_runtime("onnxruntime-genai")(asked()).step()


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("weights", PRECISIONS)
def test_every_catalogued_model_has_a_path(asked, name, weights):
    assert cell_reason(asked(spec=load_model(name), weights=weights).cell) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch": 2}, "batch 2 is not 1"),
        ({"weights": "nf4"}, "runs weights fp32, ort-int8-g32, ort-int4-g32, not nf4"),
        (
            {"weights": "ort-int4-g32", "head": "bf16"},
            "in the weights' format ort-int4-g32, not bf16; --head ort-int4-g32",
        ),
        ({"kv": "bf16"}, "keeps the KV cache in fp32 on a cpu, not bf16; --kv fp32"),
    ],
)
def test_cells_without_a_path_say_so(asked, changes, reason):
    assert re.search(reason, cell_reason(asked(**changes).cell))


def test_a_gpu_a_sliding_window_and_other_positions_are_refused(asked, tiny):
    assert "not on cuda" in cell_reason(asked().cell.model_copy(update={"device": "cuda"}))
    assert "sliding-window" in cell_reason(asked(spec=tiny("mistral", sliding_window=16)).cell)
    scaled = tiny("llama", rope_scaling={"rope_type": "linear", "factor": 2.0})
    assert cell_reason(asked(spec=scaled).cell) == "rope type linear is not supported"
