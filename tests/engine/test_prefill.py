"""A prompt in packed weights, in an fp8 cache, and filled up; test_decode.py compares it with transformers."""

from dataclasses import replace

import pytest
import torch

from memfloor.engine.cuda.kv_cache import allocate_cache
from memfloor.engine.cuda.matrix import dequantize
from memfloor.engine.cuda.model import device_rope
from memfloor.engine.cuda.prefill import Prompt
from memfloor.engine.cuda.weights import random_weights
from memfloor.spec import from_hf_config

CPU = torch.device("cpu")
TINY = {
    "model_type": "qwen2",
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 515,
    "max_position_embeddings": 128,
}
SPEC = from_hf_config(TINY, "tiny")
MATRICES = ("qkv", "o_proj", "gate_up", "down_proj")


PROMPT = [7, 11, 2, 400, 11]


def filled(weights, kv="bf16", max_len=8):
    cache = allocate_cache(SPEC, max_len, CPU, kv)
    Prompt(SPEC, weights, cache, device_rope(SPEC, max_len, CPU)).fill(PROMPT)
    return cache


def changed(weights, change):
    layers = tuple(
        replace(layer, **{name: change(name, getattr(layer, name)) for name in MATRICES}) for layer in weights.layers
    )
    return replace(weights, layers=layers)


@pytest.mark.parametrize("weights", ["int8", "int4-g128", "fp8"])
def test_packed_weights_count_as_the_numbers_they_stand_for(weights):
    packed = random_weights(SPEC, CPU, 3, weights)
    plain = changed(packed, lambda name, matrix: dequantize(matrix).to(torch.bfloat16))
    assert torch.equal(filled(packed), filled(plain))
    assert not torch.equal(filled(packed), filled(random_weights(SPEC, CPU, 3)))


def test_what_a_prompt_is_filled_up_with_does_not_change_it():
    weights = random_weights(SPEC, CPU, 3)
    alone, padded = (filled(weights, max_len=slots)[:, :, :, : len(PROMPT)].float() for slots in (len(PROMPT), 100))
    assert (padded - alone).norm() / alone.norm() < 1e-2


def test_the_first_layers_fp8_cache_holds_the_same_numbers_in_three_bits_and_none_above_448():
    loud = changed(random_weights(SPEC, CPU, 3), lambda name, matrix: matrix * 1000 if name == "qkv" else matrix)
    wide, narrow = (filled(loud, kv).float()[0] for kv in ("bf16", "fp8"))
    assert wide.abs().max() > 448
    assert narrow.abs().max() == 448
    # Half a step of three bits after the rounding to bf16, and half the least step, 2**-9.
    assert ((wide.clamp(-448, 448) - narrow).abs() <= wide.abs() / 15 + 2**-10).all()
