import numpy as np
import pytest
import torch

from memfloor.floor import step_traffic
from memfloor.runtimes.gguf_file import (
    BLOCK_GROUPS,
    FILE_TYPES,
    GROUP_WEIGHTS,
    SUPER_GROUP_WEIGHTS,
    CheckpointWeights,
    RandomWeights,
    TensorPlan,
    plan_tensors,
    rope_factors,
    write_gguf,
)
from memfloor.spec import Workload

gguf = pytest.importorskip("gguf")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "rope_scaling": LLAMA3}),
    ("mistral", {"num_key_value_heads": 4}),
    ("qwen2", {}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 32}),
    # Long enough for super-blocks of 256 weights, and deep enough for layers that llama.cpp gives more bits, and less.
    ("llama", {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 9}),
    ("qwen2", {"intermediate_size": 256, "num_hidden_layers": 9}),
]
each_shape = pytest.mark.parametrize(("family", "changes"), SHAPES)
each_format = pytest.mark.parametrize("weights", FILE_TYPES)


class Zeros:
    """Give tensors of zeros in the right size, for tests of what a file holds and not of its numbers."""

    def encode(self, tensor):
        if tensor.kind == "F32":
            return np.zeros(tensor.shape, np.float32).view(np.uint8)
        kind = gguf.GGMLQuantizationType[tensor.kind]
        return np.zeros(gguf.quants.quant_shape_to_byte_shape(tensor.shape, kind), np.uint8)


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a model and reads the table of its tensors back."""

    def write(spec, weights="bf16", source=None):
        path = tmp_path / "model.gguf"
        write_gguf(path, spec, weights, source or RandomWeights(0))
        reader = gguf.GGUFReader(path)
        return reader, {tensor.name: tensor for tensor in reader.tensors}

    return write


@each_shape
@each_format
def test_the_file_holds_the_bytes_of_each_cause_of_the_floor(written, tiny, family, changes, weights):
    spec = tiny(family, **changes)
    _, tensors = written(spec, weights, Zeros())

    def size(*parts):
        found = [tensor for name, tensor in tensors.items() if any(part in name for part in parts)]
        return sum(int(tensor.n_bytes) for tensor in found)

    traffic = step_traffic(spec, Workload.of(9, 1, weights, head=weights), "paper")
    matrices = size(*(f"attn_{name}.weight" for name in ("q", "k", "v", "output")))
    matrices += size("ffn_gate.weight", "ffn_up.weight", "ffn_down.weight")
    head = size("token_embd" if spec.tie_word_embeddings else "output.weight") - (
        0 if spec.tie_word_embeddings else size("attn_output.weight")
    )
    assert matrices + head == traffic.attention_weights + traffic.mlp_weights + traffic.head + traffic.scales
    assert size("token_embd") == (head if spec.tie_word_embeddings else traffic.embedding)
    # llama.cpp keeps norms and biases in float32, twice the 16 bits of the floor.
    assert size("norm", ".bias") == 2 * traffic.norms_and_biases
    rope = 2 * spec.head_dim if "rope_scaling" in changes else 0
    total = traffic.total_bytes - traffic.kv_read + traffic.norms_and_biases + rope
    assert sum(int(tensor.n_bytes) for tensor in tensors.values()) == total


def test_q4_k_m_keeps_each_matrix_as_llama_cpp_does(written, tiny):
    spec = tiny("llama", hidden_size=256, intermediate_size=512, num_hidden_layers=9)
    _, tensors = written(spec, "q4-k-m", Zeros())

    def finer(name):
        return [layer for layer in range(9) if tensors[f"blk.{layer}.{name}.weight"].tensor_type.name == "Q6_K"]

    # The first of nine, the last two, and each third between.
    assert finer("ffn_down") == finer("attn_v") == [0, 3, 6, 7, 8]
    assert finer("ffn_up") == finer("attn_q") == []
    assert tensors["blk.1.attn_v.weight"].tensor_type.name == "Q4_K"
    assert tensors["output.weight"].tensor_type.name == "Q6_K"


def test_q4_k_m_falls_back_where_no_super_block_fits(written, tiny):
    spec = tiny("qwen2", intermediate_size=256, num_hidden_layers=2, tie_word_embeddings=True)
    _, tensors = written(spec, "q4-k-m", Zeros())
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors.items() if "blk.1." in name or "embd" in name}
    assert kinds["token_embd.weight"] == kinds["blk.1.attn_v.weight"] == "Q8_0"
    assert kinds["blk.1.attn_q.weight"] == kinds["blk.1.ffn_up.weight"] == "Q5_0"
    assert kinds["blk.1.ffn_down.weight"] == "Q6_K"


@pytest.mark.parametrize("hidden", [64, 256])
def test_llama_cpp_quantises_the_same_tensors_to_the_same_types(written, tiny, tmp_path, hidden):
    llama_cpp = pytest.importorskip("llama_cpp")
    spec = tiny("llama", hidden_size=hidden, intermediate_size=512, num_hidden_layers=9)
    _, planned = written(spec, "q4-k-m", Zeros())
    written(spec, "bf16")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = int(gguf.LlamaFileType.MOSTLY_Q4_K_M), 1
    target = tmp_path / "quantised.gguf"
    assert llama_cpp.llama_model_quantize(bytes(tmp_path / "model.gguf"), bytes(target), params) == 0
    found = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(target).tensors}
    # A step reads one row of the embedding table, which is kept as it came.
    found["token_embd.weight"] = gguf.GGMLQuantizationType.BF16
    assert found == {name: tensor.tensor_type for name, tensor in planned.items()}


@pytest.mark.parametrize(("kind", "steps"), [("Q4_K", 15), ("Q6_K", 63)])
def test_super_blocks_keep_numbers_to_a_step(kind, steps):
    pytest.importorskip("llama_cpp")
    from memfloor.runtimes.llama_context import quantize_rows

    kind = gguf.GGMLQuantizationType[kind]
    numbers = np.random.default_rng(0).standard_normal((7, 512), np.float32)
    kept = gguf.quants.dequantize(quantize_rows(numbers, kind), kind)
    blocks = numbers.reshape(-1, SUPER_GROUP_WEIGHTS)
    # The whole range of a super-block in so many steps, and its scales in as many again.
    step = (blocks.max(axis=1) - blocks.min(axis=1)) / steps
    assert (abs(kept.reshape(blocks.shape) - blocks) <= step[:, None]).all()
    assert np.corrcoef(kept.ravel(), numbers.ravel())[0, 1] > 0.99


@each_shape
def test_the_metadata_are_those_of_the_model(written, tiny, family, changes):
    spec = tiny(family, **changes)
    reader, _ = written(spec, source=Zeros())
    architecture = "llama" if family == "mistral" else family

    def field(name):
        return reader.fields[f"{architecture}.{name}"].contents()

    assert reader.fields["general.architecture"].contents() == architecture
    assert field("context_length") == spec.max_position_embeddings
    assert field("rope.freq_base") == spec.rope_theta
    assert (field("attention.head_count"), field("attention.head_count_kv")) == (4, spec.num_key_value_heads)
    assert field("attention.key_length") == spec.head_dim
    assert field("vocab_size") == spec.vocab_size


def test_a_linear_scaling_of_rope_is_in_the_metadata(written, tiny):
    reader, _ = written(tiny("llama", rope_scaling={"rope_type": "linear", "factor": 2.0}))
    assert reader.fields["llama.rope.scaling.type"].contents() == "linear"
    assert reader.fields["llama.rope.scaling.factor"].contents() == 2.0


def test_the_factors_of_llama3_are_those_of_transformers(tiny):
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from memfloor.runtimes.hf_model import hf_config_fields

    scaled, plain = tiny("llama", rope_scaling=LLAMA3), tiny("llama")
    fields = hf_config_fields(scaled)
    fields["rope_parameters"] |= {"original_max_position_embeddings": 64}
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](AutoConfig.for_model(**fields), "cpu")
    unscaled = plain.rope_theta ** (-np.arange(0, plain.head_dim, 2) / plain.head_dim)
    np.testing.assert_allclose(unscaled / rope_factors(scaled), expected.numpy(), rtol=1e-6)
    assert rope_factors(plain) is None


@each_format
def test_random_matrices_are_normal_at_one_over_root_k(written, tiny, weights):
    if weights == "q4-k-m":
        pytest.importorskip("llama_cpp")
    _, tensors = written(tiny("llama"), weights)
    tensor = tensors["blk.0.ffn_down.weight"]
    numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    assert numbers.shape == (64, 96)
    # Four bits add an error of a tenth of the deviation.
    assert numbers.std() == pytest.approx(96**-0.5, rel=0.1)
    assert not np.array_equal(tensor.data, tensors["blk.1.ffn_down.weight"].data)


def test_the_seed_decides_the_numbers():
    plan = TensorPlan("model.layers.0.mlp.up_proj.weight", (8, 64), "Q8_0")
    assert np.array_equal(RandomWeights(1).encode(plan), RandomWeights(1).encode(plan))
    assert not np.array_equal(RandomWeights(1).encode(plan), RandomWeights(2).encode(plan))


def test_no_two_rows_of_a_repeated_matrix_are_equal():
    columns = 4096
    rows = BLOCK_GROUPS[GROUP_WEIGHTS] * GROUP_WEIGHTS // columns + 50
    encoded = RandomWeights(0).encode(TensorPlan("model.layers.0.mlp.up_proj.weight", (rows, columns), "Q4_0"))
    assert encoded.shape == (rows, columns * 18 // 32)
    assert len(np.unique(encoded[:, :18], axis=0)) == rows


class Numbers(dict):
    """Float32 tensors by name that can be read as a checkpoint is."""

    def tensor(self, name):
        return self[name].numpy()


def numbers_of(spec):
    """Return random numbers for every tensor of a model, by its Hugging Face name."""
    generator = torch.Generator().manual_seed(0)
    return Numbers({plan.name: torch.randn(plan.shape, generator=generator) for plan in plan_tensors(spec, "bf16")})


@pytest.mark.parametrize(("weights", "steps"), [("int8-g32", 127), ("int4-g32", 8)])
def test_a_checkpoint_is_kept_to_half_a_step_of_its_format(written, tiny, weights, steps):
    spec = tiny("qwen2")
    numbers = numbers_of(spec)
    _, tensors = written(spec, weights, CheckpointWeights(spec, numbers))
    tensor = tensors["blk.1.ffn_up.weight"]
    kept = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(-1, GROUP_WEIGHTS)
    asked = numbers["model.layers.1.mlp.up_proj.weight"].numpy().reshape(-1, GROUP_WEIGHTS)
    # Q4_0 clips what lies a whole step beyond its side of the smaller extreme; scales are rounded to float16.
    slack = 1.0 if weights == "int4-g32" else 0.51
    assert (abs(kept - asked) <= slack * abs(asked).max(axis=1, keepdims=True) / steps + 2**-10).all()
    bias = tensors["blk.0.attn_q.bias"].data
    assert np.array_equal(bias, numbers["model.layers.0.self_attn.q_proj.bias"].numpy())


def test_a_checkpoint_in_bf16_is_rounded_as_torch_rounds(written, tiny):
    spec = tiny("qwen2", tie_word_embeddings=True)
    numbers = numbers_of(spec)
    _, tensors = written(spec, "bf16", CheckpointWeights(spec, numbers))
    kept = gguf.quants.dequantize(tensors["token_embd.weight"].data, gguf.GGMLQuantizationType.BF16)
    assert np.array_equal(kept, numbers["model.embed_tokens.weight"].bfloat16().float().numpy())


def test_rows_of_q_and_k_are_interleaved_for_llama_alone(written, tiny):
    for family, order in (("llama", [0, 8, 1, 9]), ("qwen2", [0, 1, 2, 3])):
        spec = tiny(family)
        numbers = numbers_of(spec)
        _, tensors = written(spec, "bf16", CheckpointWeights(spec, numbers))
        kept = gguf.quants.dequantize(tensors["blk.0.attn_k.weight"].data, gguf.GGMLQuantizationType.BF16)
        asked = numbers["model.layers.0.self_attn.k_proj.weight"].bfloat16().float().numpy()
        assert np.array_equal(kept[:4], asked[order])
        assert np.array_equal(kept[16:20], asked[[16 + row for row in order]])
