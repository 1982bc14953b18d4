"""Write a model as a GGUF file, tensor by tensor, with random weights or with those of a checkpoint."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from memfloor.engine.checkpoint import Checkpoint
from memfloor.engine.tensors import to_float32
from memfloor.floor import ATTENTION, matrix_format, projections
from memfloor.spec import ModelSpec, Workload

if TYPE_CHECKING:
    from gguf import GGUFWriter

Array = np.ndarray[Any, np.dtype[Any]]

# GGUF's name of the type of file that each weight format gives, and of the type of tensor that it is kept in.
FILE_TYPES = {"bf16": "BF16", "int8-g32": "Q8_0", "int4-g32": "Q4_0", "q4-k-m": "Q4_K_M"}
TENSOR_TYPES = {
    "bf16": "BF16",
    "int8-g32": "Q8_0",
    "int4-g32": "Q4_0",
    "q5-0": "Q5_0",
    "q6-k": "Q6_K",
    "q4-k-m": "Q4_K",
}
ARCHITECTURES = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
ROPE_TYPES = ("default", "linear", "llama3")
GROUP_WEIGHTS, SUPER_GROUP_WEIGHTS = 32, 256
# A prime number of groups, by their weights, so that no two rows of a matrix hold the same numbers in the same columns.
BLOCK_GROUPS = {GROUP_WEIGHTS: 32_771, SUPER_GROUP_WEIGHTS: 4_099}


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """Plan one tensor of a file.

    Attributes:
        name: Its Hugging Face name.
        shape: [N, K] of a matrix, [N] of a vector.
        kind: GGUF's name of its type. Norms and biases are F32: llama.cpp multiplies and adds no others.
    """

    name: str
    shape: tuple[int, ...]
    kind: str


class Weights(Protocol):
    """Give the numbers of a tensor, encoded: uint8 [N, bytes of a row]."""

    def encode(self, tensor: TensorPlan) -> Array:
        """Return the encoded tensor."""


def plan_tensors(spec: ModelSpec, weights: str) -> Iterator[TensorPlan]:
    """Plan the tensors of a model in the order a step reads them.

    An embedding table that is no head stays bf16, since a step reads one row of it.
    """
    workload = Workload.of(1, 1, weights, head=weights)
    head = TENSOR_TYPES[matrix_format(spec, workload, "lm_head").name]
    table = (spec.vocab_size, spec.hidden_size)
    yield TensorPlan("model.embed_tokens.weight", table, head if spec.tie_word_embeddings else "BF16")
    for layer in range(spec.num_hidden_layers):
        yield from _plan_layer(spec, workload, layer)
    yield TensorPlan("model.norm.weight", (spec.hidden_size,), "F32")
    if not spec.tie_word_embeddings:
        yield TensorPlan("lm_head.weight", table, head)


def _plan_layer(spec: ModelSpec, workload: Workload, layer: int) -> Iterator[TensorPlan]:
    prefix = f"model.layers.{layer}"
    biased = {"q_proj": spec.qkv_bias, "k_proj": spec.qkv_bias, "v_proj": spec.qkv_bias}
    biased["o_proj"] = spec.attention_output_bias
    yield TensorPlan(f"{prefix}.input_layernorm.weight", (spec.hidden_size,), "F32")
    yield TensorPlan(f"{prefix}.post_attention_layernorm.weight", (spec.hidden_size,), "F32")
    if spec.qk_norm:
        yield TensorPlan(f"{prefix}.self_attn.q_norm.weight", (spec.head_dim,), "F32")
        yield TensorPlan(f"{prefix}.self_attn.k_norm.weight", (spec.head_dim,), "F32")
    for name, shape in projections(spec).items():
        module = f"{prefix}.{'self_attn' if name in ATTENTION else 'mlp'}.{name}"
        yield TensorPlan(f"{module}.weight", shape, TENSOR_TYPES[matrix_format(spec, workload, name, layer).name])
        if biased.get(name, spec.mlp_bias):
            yield TensorPlan(f"{module}.bias", shape[:1], "F32")


def write_gguf(path: Path, spec: ModelSpec, weights: str, source: Weights) -> None:
    """Write a model that llama.cpp loads, with a vocabulary of nameless tokens.

    Args:
        path: File to write.
        spec: The model, of a family in `ARCHITECTURES`.
        weights: Format of the matrices and of the head, one of `FILE_TYPES`.
        source: Where the numbers come from.
    """
    import gguf

    architecture = gguf.MODEL_ARCH[ARCHITECTURES[spec.model_type]]
    names = gguf.get_tensor_name_map(architecture, spec.num_hidden_layers)
    tensors = list(plan_tensors(spec, weights))
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    _add_metadata(writer, spec, gguf.LlamaFileType[f"MOSTLY_{FILE_TYPES[weights]}"])
    factors = rope_factors(spec)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.kind]
        shape = gguf.quants.quant_shape_to_byte_shape(tensor.shape, kind)
        name = names.get_name(tensor.name, (".weight", ".bias"))
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), int(np.prod(shape, dtype=np.int64)), kind)
    _write_file(writer, factors, (source.encode(tensor) for tensor in tensors))


def _write_file(writer: "GGUFWriter", factors: Array | None, encoded: Iterator[Array]) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for tensor in encoded:
        writer.write_tensor_data(tensor)
    writer.close()


def _add_metadata(writer: "GGUFWriter", spec: ModelSpec, file_type: int) -> None:
    import gguf

    writer.add_file_type(file_type)
    writer.add_block_count(spec.num_hidden_layers)
    writer.add_context_length(spec.max_position_embeddings)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_feed_forward_length(spec.intermediate_size)
    writer.add_head_count(spec.num_attention_heads)
    writer.add_head_count_kv(spec.num_key_value_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.rms_norm_eps)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_rope_freq_base(spec.rope_theta)
    if spec.rope_scaling and spec.rope_scaling["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(spec.rope_scaling["factor"]))
    writer.add_vocab_size(spec.vocab_size)
    writer.add_tokenizer_model("none")


def rope_factors(spec: ModelSpec) -> Array | None:
    """Return what llama3's scaling divides each rotary frequency by, float32 [D / 2]; None for other models.

    Source: transformers, modeling_rope_utils._compute_llama3_parameters.
    """
    if not spec.rope_scaling or spec.rope_scaling["rope_type"] != "llama3":
        return None
    scaling = {key: float(value) for key, value in spec.rope_scaling.items() if key != "rope_type"}
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    frequencies = spec.rope_theta ** (-np.arange(0, spec.head_dim, 2) / spec.head_dim)
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    kept = ((turns - low) / (high - low)).clip(0.0, 1.0)
    return (1.0 / (kept + (1.0 - kept) / scaling["factor"])).astype(np.float32)


class RandomWeights:
    """Give normal numbers: matrices at 1 / sqrt(K), norms at one, biases near zero.

    One block is encoded for each type and K, and repeated from another group on for each tensor.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._blocks: dict[tuple[str, int], Array] = {}
        self._tensors = 0

    def encode(self, tensor: TensorPlan) -> Array:
        """Return the encoded tensor."""
        self._tensors += 1
        if tensor.kind == "F32":
            scale, mean = (0.01, 0.0) if tensor.name.endswith("bias") else (0.0, 1.0)
            generator = np.random.default_rng([self._seed, self._tensors])
            return _bytes_of(generator.standard_normal(tensor.shape, np.float32) * np.float32(scale) + np.float32(mean))
        rows, columns = tensor.shape
        block = self._block(tensor.kind, columns)
        row_bytes = columns // _group_weights(tensor.kind) * block.shape[1]
        start = 7919 * self._tensors % len(block)
        return np.resize(np.roll(block, -start, axis=0), (rows, row_bytes))

    def _block(self, kind: str, columns: int) -> Array:
        if (kind, columns) not in self._blocks:
            generator, weights = np.random.default_rng([self._seed, columns]), _group_weights(kind)
            numbers = generator.standard_normal((BLOCK_GROUPS[weights], weights), np.float32)
            self._blocks[kind, columns] = _quantize(numbers * np.float32(columns**-0.5), kind)
        return self._blocks[kind, columns]


class CheckpointWeights:
    """Give the numbers of a Hugging Face checkpoint, encoded as llama.cpp expects them.

    The architecture `llama` pairs neighbours in its rotary embedding where Hugging Face pairs halves, so that the
    rows of Q and K are interleaved.
    """

    def __init__(self, spec: ModelSpec, checkpoint: Checkpoint) -> None:
        self._spec = spec
        self._checkpoint = checkpoint
        self._paired = ARCHITECTURES[spec.model_type] == "LLAMA"

    def encode(self, tensor: TensorPlan) -> Array:
        """Return the encoded tensor."""
        stored = self._checkpoint.tensor(tensor.name)
        numbers: Array = to_float32(stored.view(np.uint16)) if stored.dtype == np.uint16 else stored
        if self._paired and any(f".{name}." in tensor.name for name in ("q_proj", "k_proj")):
            halves = numbers.reshape(-1, 2, self._spec.head_dim // 2, *numbers.shape[1:])
            numbers = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)
        return _bytes_of(numbers) if tensor.kind == "F32" else _quantize(numbers, tensor.kind)


def _group_weights(kind: str) -> int:
    return SUPER_GROUP_WEIGHTS if kind.endswith("_K") else GROUP_WEIGHTS


def _quantize(numbers: Array, kind: str) -> Array:
    import gguf

    if kind.endswith("_K"):
        from memfloor.runtimes.llama_context import quantize_rows

        # The gguf package reads these types and does not write them.
        return quantize_rows(numbers, gguf.GGMLQuantizationType[kind])
    quantized: Array = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[kind])
    return _bytes_of(quantized)


def _bytes_of(numbers: Array) -> Array:
    return np.ascontiguousarray(numbers).view(np.uint8)
