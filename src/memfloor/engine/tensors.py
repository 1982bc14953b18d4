"""The tensors a model is made of, by their Hugging Face names, and where they can come from."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memfloor.floor import projections
from memfloor.spec import ModelSpec

# bf16 numbers as their bits: numpy has no such type.
Bits = NDArray[np.uint16]
Rows = Bits | NDArray[np.float32]


class TensorSource(Protocol):
    """Give the tensors of a model piece by piece, so that no whole model lies in memory twice."""

    def vector(self, name: str) -> Bits:
        """Return a bias or a norm's weight as bf16 bits [size]."""

    def rows(self, name: str, begin: int, end: int) -> Rows:
        """Return rows [begin, end) of a matrix [N, K], or numbers of a vector: bf16 bits, or float32 where wider."""


def expected_tensors(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a checkpoint of a model holds, by name."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocab_size, spec.hidden_size)}
    for layer in range(spec.num_hidden_layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in _layer_tensors(spec).items()}
    shapes["model.norm.weight"] = (spec.hidden_size,)
    if not spec.tie_word_embeddings:
        shapes["lm_head.weight"] = (spec.vocab_size, spec.hidden_size)
    return shapes


def to_bf16(numbers: NDArray[np.float32]) -> Bits:
    """Round float32 numbers to the nearest bf16, ties to even; a NaN stays one."""
    bits = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, (bits >> 16) | 0x40, rounded).astype(np.uint16)


def to_float32(bits: Bits) -> NDArray[np.float32]:
    """Return the numbers that bf16 bits stand for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _layer_tensors(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    places = {
        name: f"{'mlp' if name in ('gate_proj', 'up_proj', 'down_proj') else 'self_attn'}.{name}"
        for name in projections(spec)
    }
    biased = {"q_proj": spec.qkv_bias, "k_proj": spec.qkv_bias, "v_proj": spec.qkv_bias}
    biased |= {"o_proj": spec.attention_output_bias}
    biased |= {"gate_proj": spec.mlp_bias, "up_proj": spec.mlp_bias, "down_proj": spec.mlp_bias}
    shapes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (spec.hidden_size,),
        "post_attention_layernorm.weight": (spec.hidden_size,),
    }
    for name, shape in projections(spec).items():
        shapes[f"{places[name]}.weight"] = shape
        if biased[name]:
            shapes[f"{places[name]}.bias"] = shape[:1]
    if spec.qk_norm:
        shapes |= {f"self_attn.{name}_norm.weight": (spec.head_dim,) for name in "qk"}
    return shapes
