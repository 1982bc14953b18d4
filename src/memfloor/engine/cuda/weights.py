"""The weights of a model as the kernels read them: fused Q, K, V rows and stacked gate and up rows.

Matrices are bf16 or packed; embedding, norms and biases are bf16 always.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from memfloor.engine.checkpoint import Checkpoint
from memfloor.engine.cuda.matrix import Matrix, quantize
from memfloor.floor import projections
from memfloor.spec import ModelSpec

# Numbers of the seeded block that random weights repeat; no multiple of any row, so that rows differ.
RANDOM_BLOCK = (1 << 22) + 7


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Hold one layer.

    Attributes:
        input_norm: Weight of the norm before attention [E].
        qkv: Q, K and V rows one after another [(H + 2 Hkv) * D, E].
        qkv_bias: [(H + 2 Hkv) * D] or None.
        qk_norm: Weights of the norms of Q and K heads [D] each, or None.
        o_proj: [E, H * D].
        o_bias: [E] or None.
        post_norm: Weight of the norm before the MLP [E].
        gate_up: Gate rows, then up rows [2, F, E]; packed, [2 F, E].
        down_proj: [E, F].
    """

    input_norm: torch.Tensor
    qkv: Matrix
    qkv_bias: torch.Tensor | None
    qk_norm: tuple[torch.Tensor, torch.Tensor] | None
    o_proj: Matrix
    o_bias: torch.Tensor | None
    post_norm: torch.Tensor
    gate_up: Matrix
    down_proj: Matrix


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """Hold a model: embedding [V, E], layers, final norm [E] and head [V, E], the embedding itself if tied and bf16."""

    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    final_norm: torch.Tensor
    head: Matrix


class Tensors(Protocol):
    """Give tensors by name, as a state dict does."""

    def __getitem__(self, name: str, /) -> torch.Tensor:
        """Return a tensor."""


class CheckpointTensors:
    """Give the tensors of a checkpoint, each read when it is asked for, so that the host holds one at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return a tensor: bf16, or float32 where the file's numbers are wider."""
        numbers = self._checkpoint.tensor(name)
        tensor = torch.from_numpy(numbers)
        return tensor.view(torch.bfloat16) if numbers.dtype == np.uint16 else tensor


def pack_weights(
    spec: ModelSpec, state: Tensors, device: torch.device, weights: str = "bf16", head: str = "bf16"
) -> ModelWeights:
    """Pack a state dict with Hugging Face names on a device.

    Args:
        spec: The model; decides which biases and norms are expected.
        state: Gives tensors by their names, as in `model.layers.0.self_attn.q_proj.weight`.
        device: Where the packed weights go.
        weights: Format of the attention and MLP matrices.
        head: Format of the output head.
    """

    def get(name: str) -> torch.Tensor:
        return state[name].to(device=device, dtype=torch.bfloat16).contiguous()

    embedding = get("model.embed_tokens.weight")
    prefixes = [f"model.layers.{index}" for index in range(spec.num_hidden_layers)]
    layers = tuple(_pack_layer(spec, state, prefix, device, weights) for prefix in prefixes)
    table = embedding if spec.tie_word_embeddings else get("lm_head.weight")
    return ModelWeights(embedding, layers, get("model.norm.weight"), quantize(table, head))


def _pack_layer(spec: ModelSpec, state: Tensors, prefix: str, device: torch.device, weights: str) -> LayerWeights:
    def join(names: list[str]) -> torch.Tensor:
        parts = [state[f"{prefix}.{name}"].to(device=device, dtype=torch.bfloat16) for name in names]
        return torch.cat(parts).contiguous()

    qkv = [f"self_attn.{name}_proj" for name in "qkv"]
    gate_up = join(["mlp.gate_proj.weight", "mlp.up_proj.weight"])
    norms = (join(["self_attn.q_norm.weight"]), join(["self_attn.k_norm.weight"])) if spec.qk_norm else None
    return LayerWeights(
        input_norm=join(["input_layernorm.weight"]),
        qkv=quantize(join([f"{name}.weight" for name in qkv]), weights),
        qkv_bias=join([f"{name}.bias" for name in qkv]) if spec.qkv_bias else None,
        qk_norm=norms,
        o_proj=quantize(join(["self_attn.o_proj.weight"]), weights),
        o_bias=join(["self_attn.o_proj.bias"]) if spec.attention_output_bias else None,
        post_norm=join(["post_attention_layernorm.weight"]),
        gate_up=quantize(gate_up.view(2, spec.intermediate_size, spec.hidden_size), weights),
        down_proj=quantize(join(["mlp.down_proj.weight"]), weights),
    )


def random_weights(
    spec: ModelSpec, device: torch.device, seed: int, weights: str = "bf16", head: str = "bf16"
) -> ModelWeights:
    """Return random weights at the true shape, made on the device in about the time it takes to write them.

    Matrices have variance 1 / K, so that activations stay near one over all layers; norms are near one.

    Args:
        spec: The model.
        device: Where the weights go.
        seed: Of all numbers; what is quantised is the same in every format.
        weights: Format of the attention and MLP matrices.
        head: Format of the output head.
    """
    fill = _RandomFill(device, seed)
    layers = tuple(_random_layer(spec, fill, weights) for _ in range(spec.num_hidden_layers))
    table = (spec.vocab_size, spec.hidden_size)
    embedding = fill.matrix(*table)
    output = embedding if spec.tie_word_embeddings else fill.matrix(*table)
    return ModelWeights(embedding, layers, fill.norm(spec.hidden_size), quantize(output, head))


def _random_layer(spec: ModelSpec, fill: "_RandomFill", weights: str) -> LayerWeights:
    shapes = projections(spec)
    qkv_rows = sum(shapes[name][0] for name in ("q_proj", "k_proj", "v_proj"))
    hidden, inner = spec.hidden_size, spec.intermediate_size
    return LayerWeights(
        input_norm=fill.norm(hidden),
        qkv=quantize(fill.matrix(qkv_rows, hidden), weights),
        qkv_bias=fill.vector(qkv_rows) if spec.qkv_bias else None,
        qk_norm=(fill.norm(spec.head_dim), fill.norm(spec.head_dim)) if spec.qk_norm else None,
        o_proj=quantize(fill.matrix(*shapes["o_proj"]), weights),
        o_bias=fill.vector(hidden) if spec.attention_output_bias else None,
        post_norm=fill.norm(hidden),
        gate_up=quantize(fill.matrix(2 * inner, hidden).view(2, inner, hidden), weights),
        down_proj=quantize(fill.matrix(hidden, inner), weights),
    )


class _RandomFill:
    """Fill tensors by repeating one block of normal numbers, each from another place of it."""

    def __init__(self, device: torch.device, seed: int) -> None:
        generator = torch.Generator(device=device).manual_seed(seed)
        self._block = torch.randn(RANDOM_BLOCK, device=device, generator=generator)
        self._start = 0

    def matrix(self, rows: int, columns: int) -> torch.Tensor:
        """Return [rows, columns] of variance 1 / columns."""
        block = (self._block / columns**0.5).to(torch.bfloat16)
        out = torch.empty(rows * columns, dtype=torch.bfloat16, device=block.device)
        self._start = (self._start + 999_983) % RANDOM_BLOCK
        block = block.roll(-self._start)
        whole = out.numel() // RANDOM_BLOCK * RANDOM_BLOCK
        out[:whole].view(-1, RANDOM_BLOCK).copy_(block.expand(whole // RANDOM_BLOCK, -1))
        out[whole:].copy_(block[: out.numel() - whole])
        return out.view(rows, columns)

    def vector(self, size: int) -> torch.Tensor:
        """Return [size] numbers of standard deviation 0.1."""
        numbers: torch.Tensor = self.matrix(1, size)[0].float() * size**0.5 * 0.1
        return numbers.to(torch.bfloat16)

    def norm(self, size: int) -> torch.Tensor:
        """Return [size] numbers near one."""
        return (1.0 + self.vector(size).float()).to(torch.bfloat16)
