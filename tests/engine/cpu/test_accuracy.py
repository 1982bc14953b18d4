"""Decoding on a CPU against transformers in float32, over families, formats and instruction sets."""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch

from memfloor.engine.cpu.model import CpuModel
from memfloor.engine.cpu.native import native, unavailable_reason
from memfloor.engine.decode import Decoder
from memfloor.engine.random_tensors import RandomTensors
from memfloor.engine.tensors import expected_tensors, to_float32
from memfloor.spec import load_model

STEPS = 64
FIRST = 5
# A bf16 number is off by 2^-9 at most; keys and values of three layers together, as measured, by 6e-3 of the logits.
BF16_KV_BOUND = 1e-2
# Against keys and values that are rounded alike, what is left is that one of them now and then lies between two codes
# and falls to the other one. Measured: 2.2e-3.
ROUNDED_BOUND = 4e-3
# Instructions that multiply bf16 want queries and attention weights in bf16 too: once more 2^-9. Measured: 4e-3.
BF16_QUERY_BOUND = 8e-3
# Behind a long cache that is given, nothing falls elsewhere: what is left is float32, or for integer weights
# activations of 16 bits in blocks of 128. Measured: 1.3e-5 and 1.4e-4, and 3.3e-3 with queries in bf16.
LAYER_BOUND = {"bf16": 5e-5, "int8": 3e-4, "int4-g128": 3e-4, "int4-g32": 3e-4}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.5}
# Families with seeds whose models never waver between two tokens and repeat themselves little.
MODELS = {
    "llama": ("Llama", 22, {}),
    "llama-rope-llama3": ("Llama", 55, {"rope_parameters": LLAMA3}),
    "llama-rope-linear": ("Llama", 55, {"rope_parameters": LINEAR}),
    "llama-biases": ("Llama", 77, {"attention_bias": True, "mlp_bias": True}),
    "mistral-window": ("Mistral", 38, {"sliding_window": 19}),
    "qwen2": ("Qwen2", 196, {}),
    "qwen2-tied": ("Qwen2", 232, {"tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2", 10, {"use_sliding_window": True, "sliding_window": 21, "max_window_layers": 1}),
    "qwen3": ("Qwen3", 5, {}),
    "qwen3-tied": ("Qwen3", 97, {"tie_word_embeddings": True}),
}
each_model = pytest.mark.parametrize("name", MODELS)
ISAS = native().usable_isas() if unavailable_reason() is None else []


def decode(model, forced=None):
    """Return the first token and those decoded after it, and the logits of every step; forced tokens are fed."""
    decoder = Decoder(model, "graph")
    decoder.start(FIRST, 0)
    logits = []
    for step in range(len(forced or range(STEPS))):
        if forced:
            decoder.start(forced[step], step)
        decoder.step()
        logits.append(model.native_step.logits.copy())
    return [FIRST, *decoder.tokens(0, len(logits))], np.array(logits)


def logits_of(hf, tokens, kv_cache=None):
    """Return transformers' logits at every position of a sequence."""
    return hf(torch.tensor([tokens]), past_key_values=kv_cache, use_cache=kv_cache is not None).logits[0].numpy()


def error_of(logits, expected):
    """Return the largest error of a step, relative to its logits."""
    return (np.linalg.norm(logits - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).max()


def bound_for(isa, kv):
    return BF16_QUERY_BOUND if (isa, kv) == ("avx512-bf16", "bf16") else ROUNDED_BOUND


@pytest.fixture(scope="module")
def checkpoint(hf_model, save):
    """Return a function that gives a model of transformers and its saved checkpoint, made once."""

    @cache
    def make(name):
        family, seed, changes = MODELS[name]
        hf = hf_model(family, seed, **changes)
        return hf, save(hf)

    return make


@each_model
def test_a_checkpoint_decodes_the_tokens_of_transformers_in_float32(checkpoint, cpu_model, name):
    hf, folder = checkpoint(name)
    tokens, logits = decode(cpu_model(folder=folder))
    expected = logits_of(hf, tokens[:-1])
    assert expected.argmax(-1).tolist() == tokens[1:]
    assert len(set(tokens)) > 7, "a model that repeats itself shows nothing"
    assert error_of(logits, expected) < BF16_KV_BOUND


@pytest.mark.parametrize("kv", ["bf16", "int8"])
@each_model
def test_with_keys_and_values_rounded_alike_little_error_is_left_on_any_instruction_set(
    checkpoint, cpu_model, rounded_cache, name, kv
):
    hf, folder = checkpoint(name)
    tokens, logits = decode(cpu_model(folder=folder, kv=kv))
    expected = logits_of(hf, tokens[:-1], rounded_cache(hf.config, kv))
    assert expected.argmax(-1).tolist() == tokens[1:]
    assert error_of(logits, expected) < bound_for(ISAS[0], kv)
    for isa in ISAS[1:]:
        again, logits = decode(cpu_model(folder=folder, kv=kv, isa=isa))
        assert again == tokens, isa
        assert error_of(logits, expected) < bound_for(isa, kv), isa


@pytest.mark.parametrize("name", ["llama-biases", "mistral-window", "qwen2-tied", "qwen3"])
@pytest.mark.parametrize(
    ("weights", "head"),
    [("int8", "int8"), ("int4-g128", "int4-g128"), ("int4-g32", "int4-g32"), ("int4-g128", "bf16"), ("bf16", "int8")],
)
def test_quantised_weights_give_the_logits_of_the_rounded_checkpoint(
    checkpoint, cpu_model, rounded_cache, dequantized, name, weights, head
):
    hf, folder = checkpoint(name)
    hf = deepcopy(hf)
    model = cpu_model(folder=folder, weights=weights, head=head)
    if hf.config.tie_word_embeddings:
        # Only the head is quantised; the embedding stays bf16.
        hf.lm_head.weight = torch.nn.Parameter(hf.lm_head.weight.clone(), requires_grad=False)
    state = {name: torch.from_numpy(matrix) for name, matrix in dequantized(model.spec, model.weights).items()}
    changed = [name for name, matrix in state.items() if not torch.equal(hf.state_dict()[name], matrix)]
    assert len(changed) == (weights != "bf16") * 7 * model.spec.num_hidden_layers + (head != "bf16")
    hf.load_state_dict(state, strict=False)
    tokens, logits = decode(model)
    expected = logits_of(hf, tokens[:-1], rounded_cache(hf.config, "bf16"))
    assert error_of(logits, expected) < bound_for(model.isa, "bf16")
    _, logits = decode(cpu_model(folder=folder, weights=weights, head=head, isa="portable"), tokens[:16])
    assert error_of(logits, expected[:16]) < ROUNDED_BOUND


@pytest.mark.parametrize(("format_name", "steps"), [("int8", 127 * 2), ("int4-g128", 15), ("int4-g32", 8 * 2)])
def test_a_quantised_weight_is_off_by_half_a_step_of_its_group(tiny, cpu_model, dequantized, format_name, steps):
    spec = tiny()
    packed, exact = (
        dequantized(spec, cpu_model(spec, weights=weights, head=weights).weights) for weights in (format_name, "bf16")
    )
    for name in exact.keys() - {"model.embed_tokens.weight"}:
        group = {"int8": exact[name].shape[1], "int4-g128": 128, "int4-g32": 32}[format_name]
        numbers = exact[name].reshape(-1, group)
        low, high = numbers.min(1, keepdims=True).clip(max=0), numbers.max(1, keepdims=True).clip(min=0)
        span = high - low if format_name == "int4-g128" else 2 * np.maximum(-low, high)
        # Scales and zeros of int4 are float16; its symmetric code has no place for the opposite of its extreme.
        slack = {"int8": 0.501, "int4-g128": 0.52, "int4-g32": 1.01}[format_name]
        assert (abs(packed[name].reshape(-1, group) - numbers) <= slack * span / steps).all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_wider_types_of_a_checkpoint_decode_like_bf16(checkpoint, save, cpu_model, dtype):
    hf, folder = checkpoint("llama-biases")
    tokens, logits = decode(cpu_model(folder=folder))
    _, other_logits = decode(cpu_model(folder=save(hf, dtype)), tokens[:-1])
    # Weights below 2^-14 are rounded in float16.
    assert error_of(other_logits, logits) <= (1e-3 if dtype == torch.float16 else 0)


def test_a_sharded_checkpoint_decodes_like_a_whole_one(checkpoint, save, cpu_model):
    hf, folder = checkpoint("qwen2")
    shards = save(hf, max_shard_size="600KB")
    assert len(list(shards.glob("*.safetensors"))) > 3
    tokens, logits = decode(cpu_model(folder=shards))
    whole_tokens, whole_logits = decode(cpu_model(folder=folder))
    assert tokens == whole_tokens
    assert np.array_equal(logits, whole_logits)


def filled(cache, spec, length):
    """Fill a cache and return its keys and values, float32 [2, L, 1, Hkv, length, D]."""
    cache.fill(length, np.random.default_rng(0).standard_normal(100_003, dtype=np.float32))
    out = np.empty((2, spec.num_hidden_layers, 1, spec.num_key_value_heads, length, spec.head_dim), np.float32)
    for layer, head, slot in np.ndindex(spec.num_hidden_layers, spec.num_key_value_heads, length):
        cache.read(layer, head, slot, out[0, layer, 0, head, slot], out[1, layer, 0, head, slot])
    return torch.from_numpy(out)


def same_model(transformers, model, matrices):
    """Return transformers' model of the engine's random numbers, its matrices as the engine's kernels see them."""
    from transformers.initialization import no_init_weights

    from memfloor.runtimes.hf_model import hf_config_fields

    spec, source = model.spec, RandomTensors(model.spec, 1)
    config = transformers.AutoConfig.for_model(**{**hf_config_fields(spec), "tie_word_embeddings": False})
    with no_init_weights():
        hf = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    vectors = {name: source.vector(name) for name, shape in expected_tensors(spec).items() if len(shape) == 1}
    state = {**matrices, **{name: to_float32(bits) for name, bits in vectors.items()}}
    hf.load_state_dict({name: torch.from_numpy(numbers) for name, numbers in state.items()})
    return hf.eval().requires_grad_(False)


@pytest.mark.parametrize("kv", ["bf16", "int8"])
@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("qwen2.5-0.5b", "bf16"),
        ("qwen2.5-0.5b", "int8"),
        ("qwen2.5-0.5b", "int4-g128"),
        ("qwen2.5-0.5b", "int4-g32"),
        ("llama-3.2-1b", "int4-g128"),
    ],
)
def test_a_layer_of_full_size_behind_a_long_cache(
    transformers, cpu_model, rounded_cache, dequantized, name, weights, kv
):
    spec = load_model(name).model_copy(update={"num_hidden_layers": 1, "vocab_size": 2003})
    model = cpu_model(spec, weights=weights, head=weights, kv=kv, max_len=600)
    keys, values = filled(model.cache, spec, 517)
    hf = same_model(transformers, model, dequantized(spec, model.weights))
    past = rounded_cache(hf.config, kv)
    past.update(keys[0], values[0], 0)
    expected = logits_of(hf, [9], past)[-1]
    for isa in ISAS:
        same = CpuModel(spec, model.weights, model.cache, model.max_len, isa, model.pool)
        decoder = Decoder(same, "graph")
        decoder.start(9, 517)
        decoder.step()
        bound = BF16_QUERY_BOUND if bound_for(isa, kv) == BF16_QUERY_BOUND else LAYER_BOUND[weights]
        assert error_of(same.native_step.logits, expected) < bound, isa
