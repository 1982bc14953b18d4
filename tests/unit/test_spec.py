import json

import pytest

from memfloor.errors import UsageError
from memfloor.spec import (
    ModelSpec,
    Workload,
    from_hf_config,
    kv_format,
    kv_format_names,
    load_model,
    model_names,
    unquantized,
    weight_format,
    weight_format_names,
)

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 2048,
}


@pytest.mark.parametrize("name", model_names())
def test_every_model_of_the_catalogue_names_its_source(name):
    assert load_model(name).source.startswith("https://")


@pytest.mark.parametrize("name", weight_format_names())
def test_every_weight_format_names_its_source_and_costs_its_bits(name):
    form = weight_format(name)
    assert form.source
    assert form.weight_bytes(4, 1024) == 4 * 1024 * form.bits // 8


@pytest.mark.parametrize("name", kv_format_names())
def test_every_kv_format_names_its_source(name):
    assert kv_format(name).source


def test_scales_by_hand():
    assert weight_format("int4-g128").scales_bytes(3, 256) == 3 * 2 * 4
    assert weight_format("int4-g32").scales_bytes(3, 256) == 3 * 8 * 2
    assert weight_format("int4-g128-sym").scales_bytes(6, 256) == 6 * 2 * 2
    # Beside 12 scales of two bytes, 12 zeros of half a byte.
    assert weight_format("int4-g128-zp").scales_bytes(6, 256) == 6 * 2 * 2 + 6
    assert weight_format("int8").scales_bytes(3, 256) == 3 * 4
    assert weight_format("bf16").scales_bytes(3, 256) == 0
    # 3 rows of 4 blocks of 64 with one byte each, and one float32 for all twelve.
    assert weight_format("nf4").scales_bytes(3, 256) == 12 + 4
    # Two bytes for each of 256 rows and of 384 columns.
    assert weight_format("exl3-4").scales_bytes(256, 384) == 2 * (256 + 384)
    # A last group that is not full still has its scale.
    assert weight_format("int4-g128").scales_bytes(1, 130) == 2 * 4


def test_a_mix_keeps_matrices_by_name_layer_and_columns():
    mix = weight_format("q4-k-m")
    # 256 weights of 4 bits, eight scales and minima of 6 bits each, and two float16.
    assert mix.of_matrix("q_proj", 256, 0, 8).weight_bytes(1, 256) + mix.scales_bytes(1, 256) == 144
    finer = [layer for layer in range(24) if mix.of_matrix("v_proj", 256, layer, 24).name == "q6-k"]
    assert finer == [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]
    assert mix.of_matrix("down_proj", 896, 0, 24).name == mix.of_matrix("lm_head", 896).name == "int8-g32"
    assert mix.of_matrix("down_proj", 896, 3, 24).name == "q5-0"
    assert weight_format("int8").of_matrix("v_proj", 100).name == "int8"


def test_kv_vectors_by_hand():
    assert kv_format("bf16").vector_bytes(128) == 256
    assert kv_format("int8").vector_bytes(128) == 132
    assert kv_format("fp8").vector_bytes(128) == 128


def test_defaults_of_an_absent_field_are_those_of_hugging_face():
    spec = from_hf_config(CONFIG, "x")
    assert (spec.num_key_value_heads, spec.head_dim, spec.tie_word_embeddings) == (4, 16, False)
    assert (spec.rope_theta, spec.rope_scaling, spec.rms_norm_eps) == (10_000.0, None, 1e-6)


def test_rope_is_read_in_the_old_and_the_new_spelling():
    scaling = {"rope_type": "llama3", "factor": 8.0}
    old = from_hf_config({**CONFIG, "rope_theta": 5e5, "rope_scaling": scaling}, "x")
    new = from_hf_config({**CONFIG, "rope_parameters": {"rope_theta": 5e5, **scaling}}, "x")
    oldest = from_hf_config({**CONFIG, "rope_theta": 5e5, "rope_scaling": {"type": "llama3", "factor": 8.0}}, "x")
    assert old == new == oldest
    assert old.rope_theta == 5e5
    assert old.rope_scaling == scaling


def test_of_both_spellings_of_rope_the_one_that_transformers_takes_wins():
    both = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "rope_scaling": {"rope_type": "yarn"}}
    assert from_hf_config({**CONFIG, **both}, "x").rope_scaling == {"rope_type": "yarn"}


@pytest.mark.parametrize(
    ("model_type", "fields", "qkv", "output"),
    [
        ("qwen2", {}, True, False),
        ("qwen3", {}, False, False),
        ("llama", {"attention_bias": True}, True, True),
        ("mistral", {}, False, False),
    ],
)
def test_biases_follow_the_family(model_type, fields, qkv, output):
    spec = from_hf_config({**CONFIG, "model_type": model_type, **fields}, "x")
    assert (spec.qkv_bias, spec.attention_output_bias) == (qkv, output)


@pytest.mark.parametrize(
    ("model_type", "fields", "window", "layers"),
    [
        ("mistral", {"sliding_window": 4096}, 4096, 2),
        ("mistral", {"sliding_window": None}, None, 0),
        ("qwen2", {"sliding_window": 4096}, None, 0),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 1}, 4096, 1),
        ("llama", {"sliding_window": 4096}, None, 0),
    ],
)
def test_sliding_windows_follow_the_family(model_type, fields, window, layers):
    spec = from_hf_config({**CONFIG, "model_type": model_type, **fields}, "x")
    assert (spec.sliding_window, spec.num_sliding_layers) == (window, layers)


def test_a_directory_and_its_config_give_the_same_model(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    assert load_model(str(folder)) == load_model(str(folder / "config.json"))
    assert load_model(str(folder)).name == "my-model"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "unknown model_type 'gpt2'; known: llama, mistral, qwen2, qwen3"),
        ({"hidden_size": None}, "config lacks hidden_size"),
        ({"hidden_size": -64}, "hidden_size: Input should be greater than 0"),
        ({"hidden_size": "wide"}, "wrong type"),
        ({"num_attention_heads": 0}, "wrong type"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"rope_scaling": [1]}, "wrong type"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; supported: silu"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types other than 2 full and then 0 sliding"),
    ],
)
def test_a_wrong_config_is_refused_with_the_field(change, message):
    with pytest.raises(UsageError, match=message):
        from_hf_config({**CONFIG, **change}, "x")


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", "3"])
def test_a_corrupt_config_is_refused_by_name(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"config\.json"):
        load_model(str(path))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read"):
        load_model(str(path))


def test_unknown_names_list_the_allowed_ones():
    with pytest.raises(UsageError, match="unknown model 'qwen9'; allowed: llama-2-7b"):
        load_model("qwen9")
    with pytest.raises(UsageError, match="unknown weight format 'int3'; allowed: bf16"):
        weight_format("int3")
    with pytest.raises(UsageError, match="unknown KV format 'int3'; allowed: bf16"):
        kv_format("int3")


def test_a_quantised_model_keeps_its_head_in_sixteen_bits():
    assert Workload.of(10, weights="int4-g128").head == "bf16"
    assert Workload.of(10, weights="fp32").head == "fp32"
    assert Workload.of(10, weights="int8", head="int8").head == "int8"
    assert unquantized("nf4") == "bf16"


@pytest.mark.parametrize("arguments", [{"context_len": 0}, {"context_len": 5, "batch": -1}])
def test_counts_below_one_are_refused(arguments):
    with pytest.raises(UsageError, match="1"):
        Workload.of(**arguments)


def test_the_fingerprint_is_of_the_shape_not_of_the_name(tiny):
    renamed = ModelSpec(**{**tiny.model_dump(), "name": "other", "source": "elsewhere"})
    deeper = ModelSpec(**{**tiny.model_dump(), "num_hidden_layers": 3})
    assert renamed.fingerprint == tiny.fingerprint != deeper.fingerprint


def test_an_unknown_field_is_refused(tiny):
    with pytest.raises(ValueError, match="Extra inputs"):
        ModelSpec(**tiny.model_dump(), experts=8)
