"""Rotary tables against transformers, and launch shapes."""

import pytest
import torch

from memfloor.engine.cuda.default_shapes import default_shapes
from memfloor.engine.cuda.launch_shapes import (
    AttentionShape,
    LaunchShapes,
    ProjectionShape,
    RowShape,
    next_power_of_two,
)
from memfloor.engine.cuda.matrix import FORMATS
from memfloor.engine.cuda.weights import random_weights
from memfloor.engine.rope import rope_table
from memfloor.errors import UsageError
from memfloor.floor import projections
from memfloor.spec import load_model, weight_format


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


@pytest.mark.parametrize(
    ("max_len", "window", "splits"),
    [(2304, 1, 1), (2304, 2, 2), (2304, 65, 2), (2304, 66, 3), (100, 66, 2), (100, 9999, 2)],
)
def test_a_window_has_no_more_programs_than_the_blocks_it_can_reach_into(max_len, window, splits):
    assert AttentionShape(64, 66, 4).splits(max_len, window) == splits


QWEN = load_model("qwen2.5-7b")
# Hidden and intermediate size, heads, KV heads and head_dim of models from 0.5 to 405 billion weights.
SIZES = {
    "qwen2.5-0.5b": (896, 4864, 14, 2, 64),
    "qwen2.5-1.5b": (1536, 8960, 12, 2, 128),
    "llama-3.2-1b": (2048, 8192, 32, 8, 64),
    "llama-3.1-8b": (4096, 14336, 32, 8, 128),
    "gemma-7b": (3072, 24576, 16, 16, 256),
    "qwen2.5-32b": (5120, 27648, 40, 8, 128),
    "llama-3.1-70b": (8192, 28672, 64, 8, 128),
    "qwen2.5-72b": (8192, 29568, 64, 8, 128),
    "llama-3.1-405b": (16384, 53248, 128, 8, 128),
    "one KV head": (4096, 11008, 32, 1, 128),
}


def sized(hidden, inner, heads, kv_heads, head_dim):
    return QWEN.model_copy(
        update={
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
        }
    )


def test_the_shapes_that_were_measured_are_the_defaults():
    assert default_shapes(QWEN, 132) == LaunchShapes(
        qkv=RowShape(1, 4),
        attention=AttentionShape(64, 66, 4),
        o_proj=ProjectionShape(4, 1024, 4, 4, registers=64),
        gate_up=RowShape(2, 4, registers=128),
        down_proj=ProjectionShape(2, 2048, 10, 8, registers=80, ahead=5),
        head=RowShape(8, 4),
    )
    assert default_shapes(QWEN, 132, kv="fp8").attention == AttentionShape(64, 99, 4)
    integers = default_shapes(QWEN, 132, "int8", "fp8")
    assert (integers.qkv, integers.gate_up) == (RowShape(4, 4, registers=96), RowShape(4, 4, registers=168))
    assert integers.o_proj == ProjectionShape(16, 2048, 2, 4, ahead=2)
    assert integers.down_proj == ProjectionShape(8, 2048, 2, 4, registers=80)
    assert integers.head == RowShape(16, 8)
    floats = default_shapes(QWEN, 132, "fp8", "bf16")
    assert (floats.qkv, floats.gate_up, floats.head) == (RowShape(2, 4), RowShape(2, 1), RowShape(8, 4))
    assert floats.o_proj == ProjectionShape(16, 2048, 2, 4, ahead=2)
    assert floats.down_proj == ProjectionShape(8, 2048, 1, 2)
    four_bits = default_shapes(QWEN, 132, "int4-g128", "int4-g128")
    assert (four_bits.qkv, four_bits.gate_up, four_bits.head) == (RowShape(8, 4), RowShape(8, 4), RowShape(16, 4))
    assert four_bits.o_proj == ProjectionShape(8, 4096, 1, 2)
    assert four_bits.down_proj == ProjectionShape(16, 4096, 1, 4)


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_default_shapes_fit_registers_and_leave_few_lanes_and_multiprocessors_idle(size, weights):
    spec = sized(*SIZES[size])
    shapes, columns = default_shapes(spec, 132, weights, weights), projections(spec)
    row, bits = next_power_of_two(spec.hidden_size), weight_format(weights).bits
    qkv_rows = sum(columns[f"{name}_proj"][0] for name in "qkv")
    for shape, rows, halves in (
        (shapes.qkv, qkv_rows // 2, 2),
        (shapes.gate_up, spec.intermediate_size, 2),
        (shapes.head, spec.vocab_size, 1),
    ):
        assert shape.programs(rows) >= 132
        assert shape.block_n * halves * row * bits / 32 <= 128 * 32 * shape.warps
    for op in ("o_proj", "down_proj"):
        shape, held = getattr(shapes, op), columns[op][1]
        covered = shape.splits(held) * shape.steps * shape.block_k
        assert covered <= 1.4 * held
        assert -(-spec.hidden_size // shape.block_n) * shape.splits(held) >= 132
        words = shape.block_n * shape.steps * shape.block_k * bits / 32
        # Of what a lane takes, a cap leaves room for what is loaded before the wait.
        early = words * min(shape.ahead, shape.steps) / shape.steps / (32 * shape.warps)
        assert words <= 128 * 32 * shape.warps
        assert early <= (shape.registers or 168) - 40
        assert shape.fitted(held) == shape
    assert shapes.attention.block_s * spec.head_dim <= 64 * 128
    joined = next_power_of_two(shapes.attention.splits(2**20)) * spec.head_dim
    assert joined <= 128 * 128


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_no_lane_is_without_a_load_of_a_packed_row(size, weights):
    spec = sized(*SIZES[size])
    shapes, row = default_shapes(spec, 132, weights, weights), next_power_of_two(spec.hidden_size)
    blocks = {"o_proj": shapes.o_proj.block_k, "down_proj": shapes.down_proj.block_k}
    for op in ("qkv", "gate_up", "head", "o_proj", "down_proj"):
        warps, block = getattr(shapes, op).warps, blocks.get(op, row)
        assert warps >= 1
        assert weights == "bf16" or warps * 32 * 128 <= block * weight_format(weights).bits


@pytest.mark.parametrize(("hidden", "weights", "least"), [(256, "int8", 384), (640, "int4-g128", 768)])
def test_rows_too_short_for_the_lanes_of_a_warp_are_refused(hidden, weights, least):
    spec = sized(hidden, 4096, 8, 2, 128)
    with pytest.raises(UsageError, match=f"rows of {hidden} numbers are too short for {weights} on a GPU, .* {least}"):
        default_shapes(spec, 132, weights)
    assert default_shapes(spec, 132).qkv.warps == 4


def test_shapes_are_cut_down_to_what_runs():
    spec = sized(256, 320, 4, 2, 16)
    wide = LaunchShapes(
        qkv=RowShape(256, 1),
        attention=AttentionShape(16, 2, 1),
        o_proj=ProjectionShape(4, 64, 3, 1, ahead=2),
        gate_up=RowShape(256, 1),
        down_proj=ProjectionShape(4, 64, 9, 1, ahead=7),
        head=RowShape(128, 1),
    )
    fitted = wide.fitted(spec)
    assert fitted.qkv.block_n == 8
    assert (fitted.o_proj.steps, fitted.o_proj.ahead) == (1, 1)
    assert (fitted.down_proj.steps, fitted.down_proj.ahead) == (5, 5)
    assert (fitted.attention, fitted.gate_up, fitted.head) == (wide.attention, wide.gate_up, wide.head)


@pytest.mark.parametrize(("field", "value"), [("hidden_size", 20000), ("head_dim", 512)])
def test_rows_and_heads_too_long_to_hold_are_refused(field, value):
    with pytest.raises(UsageError, match=f"{field} {value} is beyond the engine's"):
        default_shapes(QWEN.model_copy(update={field: value}), 132)


def test_random_weights_are_scaled_and_seeded():
    spec = load_model("qwen2.5-0.5b").model_copy(update={"num_hidden_layers": 1, "vocab_size": 1000})
    first, again = (random_weights(spec, torch.device("cpu"), seed) for seed in (1, 1))
    down = first.layers[0].down_proj
    assert torch.equal(down, again.layers[0].down_proj)
    assert float(down.float().std()) * spec.intermediate_size**0.5 == pytest.approx(1.0, rel=0.01)
    assert not torch.equal(first.layers[0].o_proj[0], first.layers[0].o_proj[1])
    assert first.head is first.embedding
