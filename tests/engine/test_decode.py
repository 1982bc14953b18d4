"""A whole tiny model against transformers in float32, and the promises of the plan and the decoder."""

import pytest
import torch

from memfloor.engine.cuda import prefill
from memfloor.engine.cuda.kv_cache import fill_cache
from memfloor.engine.cuda.launch_shapes import AttentionShape, LaunchShapes, ProjectionShape, RowShape
from memfloor.engine.cuda.matrix import FORMATS
from memfloor.engine.cuda.model import DecodeModel
from memfloor.engine.cuda.weights import ModelWeights, pack_weights, random_weights
from memfloor.engine.decode import Decoder
from memfloor.engine.reference import reference_logits
from memfloor.errors import UsageError
from memfloor.floor import step_traffic
from memfloor.spec import ModelSpec, Workload, from_hf_config

CPU = torch.device("cpu")
STEPS = 16
# Few programs: the interpreter's time goes by the program.
SHAPES = LaunchShapes(
    qkv=RowShape(256, 1),
    attention=AttentionShape(block_s=16, max_splits=2, warps=1),
    o_proj=ProjectionShape(128, 256, 1, 1),
    gate_up=RowShape(256, 1),
    down_proj=ProjectionShape(256, 256, 1, 1),
    head=RowShape(128, 1),
)
TINY = {
    "hidden_size": 256,
    "intermediate_size": 320,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 515,
    "max_position_embeddings": 128,
}


# Layers that slide, all or the last, over fewer tokens than a decode takes.
WINDOWS = {
    "Mistral": {"sliding_window": 7},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
}


def hf_model(family: str, **fields: object):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{family}Config")(**TINY, tie_word_embeddings=family == "Qwen3", **fields)
    torch.manual_seed(1)
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        matrix = weight.dim() == 2
        weight.normal_(std=weight.shape[-1] ** -0.5 if matrix else 0.1)
        # Norms near one; weights that bf16 holds exactly, so that only the arithmetic differs.
        weight.add_(1.0 if "norm" in name else 0.0).copy_(weight.bfloat16())
    return model


@pytest.fixture(scope="module")
def tiny() -> tuple[ModelSpec, ModelWeights]:
    spec = from_hf_config({**TINY, "num_hidden_layers": 1, "model_type": "qwen2"}, "tiny")
    return spec, random_weights(spec, CPU, seed=3)


# The head's format is its own: bf16 stays under quantised layers unless asked, and the other way round.
PAIRS = [*((name, "bf16") for name in FORMATS), ("bf16", "int8"), ("int4-g128", "fp8"), ("fp8", "int4-g128")]


def quantized(weights: str, head: str) -> tuple[ModelSpec, ModelWeights]:
    # Rows that fill the chunks of every format.
    sizes = {**TINY, "num_hidden_layers": 1, "intermediate_size": 384, "model_type": "qwen2"}
    spec = from_hf_config(sizes, "tiny")
    return spec, random_weights(spec, CPU, 3, weights, head)


def decoder_of(tiny: tuple[ModelSpec, ModelWeights]) -> Decoder:
    return Decoder(DecodeModel(*tiny, 20, SHAPES, 0), "eager")


def bytes_read(model: DecodeModel) -> int:
    return sum(tensor.numel() * tensor.element_size() for call in model.plan.calls for tensor in call.reads)


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3"])
def test_a_tiny_model_decodes_as_transformers_does(family):
    model = hf_model(family)
    spec = from_hf_config(model.config.to_dict(), family)
    assert spec.qkv_bias == (family == "Qwen2")
    assert spec.qk_norm == (family == "Qwen3")
    decoder = decoder_of((spec, pack_weights(spec, model.state_dict(), CPU)))
    decoder.start(5, 0)
    tokens = [5]
    for _ in range(STEPS):
        decoder.step()
        want = model(torch.tensor([tokens])).logits[0, -1]
        assert (decoder.model.logits - want).norm() / want.norm() < 2e-2
        tokens.append(int(want.argmax()))
        assert int(decoder.model.token) == tokens[-1]
    assert decoder.tokens(0, STEPS) == tokens[1:]


@pytest.mark.parametrize("family", WINDOWS)
def test_layers_that_slide_decode_as_those_of_transformers(family):
    model = hf_model(family, **WINDOWS[family])
    spec = from_hf_config(model.config.to_dict(), family)
    assert [spec.window_of(layer) for layer in range(2)] == {"Mistral": [7, 7], "Qwen2": [0, 4]}[family]
    weights, tokens = pack_weights(spec, model.state_dict(), CPU), [5, 7, 11, 2, 400, 11, 3, 9, 77, 8, 31, 6]
    want = model(torch.tensor([tokens])).logits[0]
    logits = torch.from_numpy(started(spec, weights, 0).forced_logits(tokens))
    assert (logits - want).norm() / want.norm() < 2e-2
    # Behind a prompt too.
    decoder = started(spec, weights, 9)
    decoder.model.prefill(tokens[:9])
    logits = torch.from_numpy(decoder.forced_logits(tokens[9:]))
    assert (logits - want[9:]).norm() / want[9:].norm() < 2e-2


def started(spec: ModelSpec, weights: ModelWeights, position: int) -> Decoder:
    decoder = decoder_of((spec, weights))
    decoder.start(0, position)
    return decoder


@pytest.mark.parametrize("chunk_tokens", [2, 1024])
@pytest.mark.parametrize(
    ("family", "fields"), [("Qwen2", {}), ("Qwen3", {}), ("Llama", {}), ("Mistral", {"sliding_window": 3})]
)
def test_a_prefilled_cache_is_the_one_that_transformers_fills(monkeypatch, family, fields, chunk_tokens):
    monkeypatch.setattr(prefill, "CHUNK_TOKENS", chunk_tokens)
    model, prompt = hf_model(family, **fields), [7, 11, 2, 400, 11]
    spec = from_hf_config(model.config.to_dict(), family)
    engine = DecodeModel(spec, pack_weights(spec, model.state_dict(), CPU), 20, SHAPES, 0)
    engine.prefill(prompt)
    kept = model(torch.tensor([prompt]), use_cache=True).past_key_values
    for ours, theirs in zip(engine.cache.float(), kept.layers, strict=True):
        # A layer that slides keeps no more than the next token sees.
        kept_len = theirs.keys.shape[2]
        assert kept_len == fields.get("sliding_window", len(prompt) + 1) - 1
        prompt_slots = ours[:, :, len(prompt) - kept_len : len(prompt)]
        for found, want in zip(prompt_slots, (theirs.keys[0], theirs.values[0]), strict=True):
            assert (found - want).norm() / want.norm() < 1e-2


def test_a_decode_goes_on_behind_a_prompt():
    model, prompt = hf_model("Qwen2"), [7, 11, 2, 400, 11]
    spec = from_hf_config(model.config.to_dict(), "Qwen2")
    decoder = decoder_of((spec, pack_weights(spec, model.state_dict(), CPU)))
    decoder.prefill(prompt)
    decoder.start(5, len(prompt))
    decoder.step()
    want = model(torch.tensor([[*prompt, 5]])).logits[0, -1]
    assert (decoder.model.logits - want).norm() / want.norm() < 2e-2
    assert int(decoder.model.token) == int(want.argmax())


def test_draws_depend_on_the_seed_and_grow_likely_with_the_cold(tiny):
    def drawn(temperature: float, seed: int) -> list[int]:
        decoder = decoder_of(tiny)
        decoder.model.sample_with(temperature, seed)
        decoder.start(11, 3)
        return decoder.decode(4)

    assert drawn(2.0, 1) == drawn(2.0, 1) != drawn(2.0, 2)
    assert drawn(1e-6, 1) == drawn(0.0, 1)


@pytest.mark.parametrize(("temperature", "seed"), [(-1.0, 0), (float("inf"), 0), (1.0, -1), (1.0, 2**31)])
def test_a_temperature_or_seed_out_of_range_is_refused(tiny, temperature, seed):
    with pytest.raises(UsageError, match="must be 0"):
        decoder_of(tiny).model.sample_with(temperature, seed)


def test_the_reference_step_agrees_with_the_kernels(tiny):
    spec, weights = tiny
    decoder = decoder_of(tiny)
    model = decoder.model
    model.cache.normal_(generator=torch.Generator().manual_seed(0))
    want = reference_logits(spec, weights, model.cache, model.rope, 9, 17)
    decoder.start(9, 17)
    decoder.step()
    assert (model.logits - want).norm() / want.norm() < 2e-2


def test_the_same_steps_give_the_same_bits(tiny):
    results = []
    decoder = decoder_of(tiny)
    for _ in range(2):
        decoder.start(11, 3)
        decoder.step()
        decoder.step()
        results.append((decoder.tokens(3, 2), decoder.model.logits.clone(), decoder.model.cache.clone()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert torch.equal(results[0][2], results[1][2])


def test_no_step_runs_past_the_cache(tiny):
    decoder = decoder_of(tiny)
    decoder.start(1, 19)
    decoder.step()
    with pytest.raises(UsageError, match="the cache holds 20 tokens; step 21"):
        decoder.step()


def test_a_prompt_that_leaves_no_slot_is_refused(tiny):
    decoder = decoder_of(tiny)
    decoder.prefill([1] * 19)
    with pytest.raises(UsageError, match="the cache holds 20 tokens; no slot is left behind 20"):
        decoder.prefill([1] * 20)


@pytest.mark.parametrize(("token", "position"), [(515, 0), (-1, 0), (0, 20), (0, -1)])
def test_a_start_outside_vocabulary_or_cache_is_refused(tiny, token, position):
    with pytest.raises(UsageError, match="must be 0 to"):
        decoder_of(tiny).start(token, position)


def test_a_step_before_the_start_is_refused(tiny):
    with pytest.raises(UsageError, match="start the decode"):
        decoder_of(tiny).step()


def test_an_unknown_launch_mode_is_refused(tiny):
    with pytest.raises(UsageError, match=r"unknown launch mode 'lazy'; allowed: eager, graph"):
        Decoder(decoder_of(tiny).model, "lazy")


@pytest.mark.parametrize(("weights", "head"), PAIRS)
def test_a_quantised_step_agrees_with_float32_over_dequantised_weights(weights, head):
    spec, packed = quantized(weights, head)
    model = DecodeModel(spec, packed, 20, SHAPES, 0)
    model.cache.normal_(generator=torch.Generator().manual_seed(0))
    want = reference_logits(spec, packed, model.cache, model.rope, 9, 17)
    decoder = Decoder(model, "eager")
    decoder.start(9, 17)
    decoder.step()
    assert (model.logits - want).norm() / want.norm() < 2e-2
    assert (model.facts()["weights_format"], model.facts()["head_format"]) == (weights, head)


@pytest.mark.usefixtures("exact_fp8")
def test_a_step_over_an_fp8_cache_agrees_with_its_reference_and_takes_the_bytes_of_the_floor(tiny):
    spec, weights = tiny
    model = DecodeModel(spec, weights, 20, SHAPES, 0, "fp8")
    fill_cache(model.cache, 20, seed=0)
    want = reference_logits(spec, weights, model.cache, model.rope, 9, 17)
    decoder = Decoder(model, "eager")
    decoder.start(9, 17)
    decoder.step()
    assert (model.logits - want).norm() / want.norm() < 2e-2
    assert model.facts()["kv_dtype"] == "torch.float8_e4m3fn"
    assert model.cache[:, :, :, :17].nbytes == step_traffic(spec, Workload.of(17, kv="fp8")).kv_read


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_the_tensors_a_step_reads_add_up_to_the_floor(model_type):
    spec = from_hf_config({**TINY, "num_hidden_layers": 1, "model_type": model_type}, "tiny")
    assert spec.qk_norm == (model_type == "qwen3")
    read = bytes_read(DecodeModel(spec, random_weights(spec, CPU, seed=3), 20, SHAPES, 0))
    traffic = step_traffic(spec, Workload.of(16))
    assert read == traffic.total_bytes - traffic.kv_read - traffic.kv_write


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("weights", "head"), PAIRS)
def test_what_a_quantised_step_reads_adds_up_to_the_floor_of_its_formats(weights, head, tied):
    spec, _ = quantized("bf16", "bf16")
    spec = spec.model_copy(update={"tie_word_embeddings": tied})
    model = DecodeModel(spec, random_weights(spec, CPU, 3, weights, head), 20, SHAPES, 0)
    traffic = step_traffic(spec, Workload.of(16, weights=weights, head=head))
    assert bytes_read(model) == traffic.total_bytes - traffic.kv_read - traffic.kv_write


def test_six_kernels_per_layer(tiny):
    counts = decoder_of(tiny).model.plan.counts()
    assert counts == {"qkv": 1, "attention": 1, "combine": 1, "projection": 2, "gate_up": 1, "head": 1, "sample": 1}


def test_the_facts_name_the_launch_shapes_that_run(tiny):
    model = decoder_of(tiny).model
    constants = [call.constants for call in model.plan.calls]
    qkv, o_proj, down_proj = constants[0], constants[3], constants[5]
    assert qkv["BLOCK_N"] == 32
    assert model.facts()["shape_qkv"] == "RowShape(block_n=32, warps=1, registers=None)"
    for op, ran in (("o_proj", o_proj), ("down_proj", down_proj)):
        shape = getattr(model.shapes, op)
        assert (shape.block_n, shape.block_k, shape.steps) == (ran["BLOCK_N"], ran["BLOCK_K"], ran["STEPS"])
        assert model.facts()[f"shape_{op}"] == str(shape)
