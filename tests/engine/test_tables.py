"""Rotary tables against transformers, and launch shapes."""

import pytest
import torch

from memfloor.engine.cuda.launch_shapes import (
    AttentionShape,
    ProjectionShape,
    RowShape,
    default_shapes,
    next_power_of_two,
)
from memfloor.engine.cuda.weights import random_weights
from memfloor.engine.rope import rope_table
from memfloor.errors import UsageError
from memfloor.spec import load_model


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen2.5-0.5b"])
def test_rope_frequencies_are_those_of_transformers(name):
    transformers = pytest.importorskip("transformers")
    spec = load_model(name)
    parameters = {"rope_type": "default", **(spec.rope_scaling or {}), "rope_theta": spec.rope_theta}
    config = transformers.LlamaConfig(
        hidden_size=spec.hidden_size,
        num_attention_heads=spec.num_attention_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=spec.max_position_embeddings,
        rope_parameters=parameters,
    )
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    cos, sin = rotary(torch.zeros(1), torch.arange(300)[None])
    got_cos, got_sin = (torch.from_numpy(table) for table in rope_table(spec, 300))
    # Frequencies may differ by a rounding, and angles are up to 300 times as large.
    tolerance = 300 * 2.0**-23
    torch.testing.assert_close(got_cos, cos[0, :, : spec.head_dim // 2], rtol=0, atol=tolerance)
    torch.testing.assert_close(got_sin, sin[0, :, : spec.head_dim // 2], rtol=0, atol=tolerance)


def test_an_unknown_rope_type_is_refused():
    spec = load_model("qwen3-8b").model_copy(update={"rope_scaling": {"rope_type": "yarn", "factor": 4.0}})
    with pytest.raises(UsageError, match="rope type yarn is not supported; supported: default, linear, llama3"):
        rope_table(spec, 10)


def test_shapes_count_their_programs():
    assert RowShape(4, 4).programs(37) == 10
    assert ProjectionShape(8, 4096, 1, 8).splits(18944) == 5
    assert AttentionShape(64, 33, 4).splits(2304) == 33
    assert AttentionShape(64, 66, 4).splits(2304) == 36


@pytest.mark.parametrize("hidden", [256, 3584, 8192])
def test_default_shapes_hold_whole_rows(hidden):
    shapes = default_shapes(hidden, 4, 132)
    assert shapes.o_proj.block_k == min(1024, next_power_of_two(hidden))


@pytest.mark.parametrize("weights", ["int8", "fp8", "int4-g128"])
def test_default_shapes_follow_the_formats_of_weights_and_head(weights):
    plain, shapes = default_shapes(3584, 4, 132), default_shapes(3584, 4, 132, weights, weights)
    assert shapes.gate_up != plain.gate_up
    assert shapes.head != plain.head
    assert shapes.attention == plain.attention
    assert default_shapes(3584, 4, 132, weights).head == plain.head


def test_rows_too_long_to_hold_are_refused():
    with pytest.raises(UsageError, match="hidden_size 20000"):
        default_shapes(20000, 4, 132)


def test_random_weights_are_scaled_and_seeded():
    spec = load_model("qwen2.5-0.5b").model_copy(update={"num_hidden_layers": 1, "vocab_size": 1000})
    first, again = (random_weights(spec, torch.device("cpu"), seed) for seed in (1, 1))
    down = first.layers[0].down_proj
    assert torch.equal(down, again.layers[0].down_proj)
    assert float(down.float().std()) * spec.intermediate_size**0.5 == pytest.approx(1.0, rel=0.01)
    assert not torch.equal(first.layers[0].o_proj[0], first.layers[0].o_proj[1])
    assert first.head is first.embedding
