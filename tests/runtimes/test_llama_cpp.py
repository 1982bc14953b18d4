import sys

import pytest
import torch

from memfloor.errors import UsageError
from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.runtimes.llama_cpp import LlamaCpp, cell_reason
from memfloor.spec import load_model, model_names

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
STEPS = 32
# Seeds whose models never waver between two tokens.
MODELS = [
    ("llama", {}, 199),
    ("llama", {"rope_scaling": LLAMA3}, 285),
    ("mistral", {}, 199),
    ("qwen2", {}, 256),
    ("qwen2", {"tie_word_embeddings": True}, 1),
    ("qwen3", {"head_dim": 32}, 20),
]


@pytest.fixture
def library():
    """Skip a test where llama.cpp is not installed."""
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")


@pytest.fixture
def asked(request_for):
    """Return a function that makes a request with the head in the weights' format and a cache of 16 bits."""

    def make(weights="bf16", kv="bf16", head=None, **request):
        made = request_for("llama-cpp", weights="bf16", **request)
        formats = {"weights": weights, "head": head or weights, "kv": kv}
        cell = made.cell.model_copy(update={"workload": made.cell.workload.model_copy(update=formats)})
        return DecodeRequest(cell, made.start_len, made.max_steps, made.seed)

    return make


@pytest.fixture
def ready(library, asked):
    """Return a function that prepares llama.cpp for such a request."""

    def prepare(**request):
        made = asked(**request)
        assert LlamaCpp.unavailable_reason(made.cell) is None
        system = LlamaCpp(made)
        system.prepare()
        return system

    return prepare


def decode(system, steps):
    tokens = []
    for _ in range(steps):
        system.step()
        tokens.append(system.token)
    return tokens


def reference(folder, prompt):
    """Return the tokens that transformers decodes with bf16 weights in float32, and the least lead of a token."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).float().eval()
    tokens, lead, fed, cache = [], float("inf"), prompt, None
    with torch.no_grad():
        for _ in range(STEPS):
            output = model(fed, past_key_values=cache, use_cache=True)
            logits, cache = output.logits[0, -1], output.past_key_values
            best = logits.topk(2).values
            lead = min(lead, float((best[0] - best[1]) / logits.std()))
            tokens.append(int(logits.argmax()))
            fed = torch.tensor([[tokens[-1]]])
    return tokens, lead


@pytest.mark.parametrize(("family", "changes", "seed"), MODELS)
@pytest.mark.parametrize("flash", ["on", "off"])
def test_a_checkpoint_decodes_what_transformers_decodes(ready, tiny, checkpoint, family, changes, seed, flash):
    spec = tiny(family, **changes)
    folder = checkpoint(spec, seed)
    prompt = torch.randint(320, (1, 40), generator=torch.Generator().manual_seed(3))
    expected, lead = reference(folder, prompt)
    assert len(set(expected)) > 20, "a model that repeats itself shows nothing"
    # llama.cpp rounds activations to bf16 before each product, a relative error of 2^-9 each.
    assert lead > 2**-5, "a model that wavers shows nothing"

    system = ready(spec=spec, kv="fp16", start_len=1, max_steps=80, weights_from=str(folder), options={"flash": flash})
    feed(system, prompt[0].tolist())
    assert decode(system, STEPS) == expected


def feed(system, prompt):
    """Replace what is in the cache by a prompt, whose last token is the next step's own."""
    system._context.clear()
    system._context.prefill(prompt[:-1])
    system.token, system.position = prompt[-1], len(prompt) - 1


@pytest.mark.parametrize("weights", ["bf16", "int8-g32", "int4-g32", "q4-k-m"])
def test_forced_logits_are_those_of_the_rounded_checkpoint(ready, tiny, checkpoint, weights):
    # Two layers, of which llama.cpp's recipe gives the second more bits.
    spec = tiny("qwen2", hidden_size=256, intermediate_size=512)
    folder = checkpoint(spec, 52)
    tokens = torch.randint(320, (20,), generator=torch.Generator().manual_seed(3)).tolist()
    exact = rounded_logits(folder, spec, weights, tokens)
    system = ready(spec=spec, weights=weights, start_len=0, max_steps=40, weights_from=str(folder))
    error = (system.forced_logits(tokens) - exact).std() / exact.std()
    # What is left is that llama.cpp rounds activations, to bf16 or to 8 bits in groups of 32 or 256.
    assert 0 < error < 0.2
    assert system._context.cached_len() == 20
    assert system.observed_path().facts["cache_fill"] == "empty"


def rounded_logits(folder, spec, weights, tokens):
    """Return transformers' logits after each token, of a checkpoint rounded as llama.cpp's file keeps it."""
    import gguf
    from transformers import AutoModelForCausalLM

    from memfloor.runtimes.gguf_file import _quantize, plan_tensors

    kinds = {plan.name: plan.kind for plan in plan_tensors(spec, weights)}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for name, matrix in model.named_parameters():
            if matrix.dim() == 2:
                kept = _quantize(matrix.detach().numpy(), kinds[name])
                matrix.copy_(torch.from_numpy(gguf.quants.dequantize(kept, gguf.GGMLQuantizationType[kinds[name]])))
        return model(torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("kv", ["bf16", "fp16"])
def test_the_cache_starts_at_start_len_and_grows_by_one_a_step(ready, kv, flash):
    system = ready(kv=kv, start_len=7, options={"flash": flash})
    lengths = [system._context.cached_len()]
    for _ in range(3):
        system.step()
        lengths.append(system._context.cached_len())
    assert lengths == [7, 8, 9, 10]
    facts = system.observed_path().facts
    assert facts["cache_fill"] == "random keys and values, written as a state"
    assert (facts["kv_type"], facts["flash_attention"]) == (kv, flash)


def test_the_numbers_written_are_those_in_the_cache(ready):
    from memfloor.runtimes.llama_state import MAGIC_BYTES, StateLayout, _random_block

    system = ready(start_len=9, seed=4)
    state = system._context.read_state()
    layout = StateLayout(layers=2, vector_numbers=32, kv_type=30, transposed=False)
    assert state == layout.random_state(9, state[:MAGIC_BYTES], _random_block(30, 4))


def test_another_layout_of_the_state_is_seen_and_prefilled(ready, monkeypatch):
    from memfloor.runtimes.llama_state import StateLayout

    monkeypatch.setattr(StateLayout, "describes", lambda layout, state: False)
    system = ready(start_len=7)
    assert system._context.cached_len() == 7
    fill = system.observed_path().facts["cache_fill"]
    assert fill == "prefill of random tokens; this llama.cpp stores its state in another layout"


def test_a_prefill_fills_the_cache_in_chunks(ready, monkeypatch):
    whole = decode(ready(prefill=True, start_len=11), 6)
    monkeypatch.setattr("memfloor.runtimes.llama_context.PREFILL_CHUNK_TOKENS", 4)
    system = ready(prefill=True, start_len=11)
    assert decode(system, 6) == whole
    assert system.observed_path().facts["cache_fill"] == "prefill of random tokens"


@pytest.mark.parametrize(
    ("weights", "name"), [("bf16", "BF16"), ("int8-g32", "Q8_0"), ("int4-g32", "Q4_0"), ("q4-k-m", "Q4_K - Medium")]
)
def test_the_observed_path_names_what_ran(ready, weights, name):
    system = ready(weights=weights, threads=1)
    system.step()
    path = system.observed_path()
    assert path.facts["model"].endswith(name)
    assert path.facts["threads"] == "1"
    assert path.facts["system_info"].startswith("CPU")
    # Seven projections in each of two layers, and the head.
    assert (path.operators["MUL_MAT"], path.operators["FLASH_ATTN_EXT"]) == (15, 2)


def test_the_same_seed_decodes_the_same_tokens(ready):
    assert decode(ready(seed=5), 6) == decode(ready(seed=5), 6)


def test_nothing_is_printed_and_no_file_is_left(ready, capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    decode(ready(), 2)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_model_is_refused_with_the_reason(library, tmp_path):
    from memfloor.runtimes.llama_context import LlamaModel

    path = tmp_path / "none.gguf"
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"llama.cpp does not load the model: .*gguf"):
        LlamaModel(path)


def test_a_step_before_prepare_is_refused(asked):
    with pytest.raises(UsageError, match="prepare the runtime"):
        find_runtime("llama-cpp")(asked()).step()


@pytest.mark.parametrize("missing", ["llama_cpp", "gguf"])
def test_a_missing_library_is_a_reason_with_the_install_line(monkeypatch, library, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    reason = LlamaCpp.unavailable_reason()
    assert reason == f"{missing} is not installed; pip install 'memfloor[llama-cpp]', which builds llama.cpp"


def test_a_library_of_another_machine_is_a_reason_and_no_crash(monkeypatch, library):
    class Loader:
        def find_spec(self, name, path=None, target=None):
            if name == "llama_cpp":
                raise RuntimeError("Failed to load shared library")

    monkeypatch.delitem(sys.modules, "llama_cpp")
    monkeypatch.setattr(sys, "meta_path", [Loader(), *sys.meta_path])
    reason = LlamaCpp.unavailable_reason()
    assert reason == "llama-cpp-python does not load (Failed to load shared library); install it again on this machine"


@pytest.mark.parametrize("name", model_names())
def test_every_catalogued_model_has_a_path(asked, name):
    spec = load_model(name)
    assert cell_reason(asked(spec=spec, weights="int4-g32").cell) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch": 2}, "batch 2 is not 1"),
        ({"weights": "nf4"}, "llama-cpp runs weights bf16, int8-g32, int4-g32, q4-k-m, not nf4"),
        (
            {"weights": "int8-g32", "head": "bf16"},
            "llama-cpp keeps the head in the weights' format int8-g32, not bf16; --head int8-g32",
        ),
        ({"kv": "int8"}, "llama-cpp keeps the KV cache in fp16, bf16, not int8"),
    ],
)
def test_formats_without_a_path_say_so(asked, changes, reason):
    assert cell_reason(asked(**changes).cell) == reason


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("mistral", {"sliding_window": 16}, "sliding-window attention is not supported"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope type yarn is not supported"),
        ("qwen2", {"rope_scaling": LLAMA3}, "rope type llama3 is not supported for qwen2"),
        ("qwen3", {"attention_bias": True}, "biases after attention or in the MLP are not supported for qwen3"),
        ("llama", {"intermediate_size": 100}, "matrices of 64, 100 columns: not all are multiples of 32"),
        ("qwen2", {"head_dim": 32}, "4 heads of 32 are not the hidden size 64, as llama.cpp's qwen2 needs"),
    ],
)
def test_shapes_without_a_path_say_so(asked, tiny, family, changes, reason):
    assert cell_reason(asked(spec=tiny(family, **changes)).cell) == reason


def test_another_mix_of_large_models_is_refused(asked, tiny):
    cell = asked(spec=tiny("llama", num_hidden_layers=80), weights="q4-k-m").cell
    assert cell_reason(cell) == "q4-k-m of a model of 80 layers is another mix, whose V is Q5_K"


def test_a_gpu_is_refused(asked):
    cell = asked().cell.model_copy(update={"device": "cuda"})
    assert cell_reason(cell) == "llama-cpp runs on a cpu here, not on cuda"
