"""The weights of a model as the native kernels read them, packed once from a source of tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from memfloor.engine.cpu.native import native
from memfloor.engine.tensors import Bits, Rows, TensorSource
from memfloor.floor import projections
from memfloor.spec import ModelSpec, Workload

# Rows are handed to the packing threads in pieces of about this size, little beside any model worth decoding.
PIECE_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Hold one layer: packed matrices, and vectors as bf16 bits.

    Attributes:
        input_norm: Weight of the norm before attention [E].
        qkv: Q, K and V rows one after another [(H + 2 Hkv) * D, E].
        qkv_bias: [(H + 2 Hkv) * D] or None.
        q_norm: Weight of the norm of Q heads [D] or None.
        k_norm: Weight of the norm of K heads [D] or None.
        o_proj: [E, H * D].
        o_bias: [E] or None.
        post_norm: Weight of the norm before the MLP [E].
        gate_up: Gate and up rows taking turns [2 F, E].
        gate_up_bias: [2 F] or None.
        down_proj: [E, F].
        down_bias: [E] or None.
    """

    input_norm: Bits
    qkv: Any
    qkv_bias: Bits | None
    q_norm: Bits | None
    k_norm: Bits | None
    o_proj: Any
    o_bias: Bits | None
    post_norm: Bits
    gate_up: Any
    gate_up_bias: Bits | None
    down_proj: Any
    down_bias: Bits | None


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """Hold a model: embedding [V, E] in bf16, layers, final norm [E], and head [V, E], which may be the embedding."""

    embedding: Any
    layers: tuple[LayerWeights, ...]
    final_norm: Bits
    head: Any


@dataclass
class Packer:
    """Pack tensors of a source on a pool's threads.

    Attributes:
        spec: The model.
        source: Where its tensors come from.
        pool: The native pool.
        report: Told what is being packed.
    """

    spec: ModelSpec
    source: TensorSource
    pool: Any
    report: Callable[[str], None] = field(default=lambda text: None)

    def pack(self, workload: Workload) -> ModelWeights:
        """Return the packed weights in the formats of a workload."""
        spec = self.spec
        embedding = self._matrix("bf16", ["model.embed_tokens"], spec.vocab_size, spec.hidden_size)
        layers = []
        for index in range(spec.num_hidden_layers):
            self.report(f"packing layer {index + 1} of {spec.num_hidden_layers}")
            layers.append(self._layer(f"model.layers.{index}", workload.weights))
        self.report("packing the head")
        return ModelWeights(
            embedding, tuple(layers), self.source.vector("model.norm.weight"), self._head(embedding, workload.head)
        )

    def _head(self, embedding: Any, weights: str) -> Any:
        tied = self.spec.tie_word_embeddings
        if tied and weights == "bf16":
            return embedding
        name = "model.embed_tokens" if tied else "lm_head"
        return self._matrix(weights, [name], self.spec.vocab_size, self.spec.hidden_size)

    def _layer(self, prefix: str, weights: str) -> LayerWeights:
        spec, shapes = self.spec, projections(self.spec)
        qkv = [f"{prefix}.self_attn.{name}_proj" for name in "qkv"]
        mlp = [f"{prefix}.mlp.{name}_proj" for name in ("gate", "up")]
        rows = sum(shapes[f"{name}_proj"][0] for name in "qkv")
        return LayerWeights(
            input_norm=self.source.vector(f"{prefix}.input_layernorm.weight"),
            qkv=self._matrix(weights, qkv, rows, spec.hidden_size),
            qkv_bias=self._joined(qkv, spec.qkv_bias),
            q_norm=self.source.vector(f"{prefix}.self_attn.q_norm.weight") if spec.qk_norm else None,
            k_norm=self.source.vector(f"{prefix}.self_attn.k_norm.weight") if spec.qk_norm else None,
            o_proj=self._matrix(weights, [f"{prefix}.self_attn.o_proj"], *shapes["o_proj"]),
            o_bias=self._joined([f"{prefix}.self_attn.o_proj"], spec.attention_output_bias),
            post_norm=self.source.vector(f"{prefix}.post_attention_layernorm.weight"),
            gate_up=self._taking_turns(weights, mlp),
            gate_up_bias=self._taking_turns_bias(mlp),
            down_proj=self._matrix(weights, [f"{prefix}.mlp.down_proj"], *shapes["down_proj"]),
            down_bias=self._joined([f"{prefix}.mlp.down_proj"], spec.mlp_bias),
        )

    def _matrix(self, weights: str, names: Sequence[str], rows: int, columns: int) -> Any:
        matrix, first = native().Matrix(weights, rows, columns), 0
        heights = self._heights(names, rows)
        for name, height in zip(names, heights, strict=True):
            self._write(matrix, f"{name}.weight", height, first, 1)
            first += height
        return matrix

    def _heights(self, names: Sequence[str], rows: int) -> list[int]:
        if len(names) == 1:
            return [rows]
        shapes = projections(self.spec)
        return [shapes[name.rpartition(".")[2]][0] for name in names]

    def _taking_turns(self, weights: str, names: Sequence[str]) -> Any:
        spec = self.spec
        matrix = native().Matrix(weights, len(names) * spec.intermediate_size, spec.hidden_size)
        for index, name in enumerate(names):
            self._write(matrix, f"{name}.weight", spec.intermediate_size, index, len(names))
        return matrix

    def _write(self, matrix: Any, name: str, height: int, first: int, step: int) -> None:
        piece = max(1, PIECE_BYTES // (2 * matrix.columns))
        for begin in range(0, height, piece):
            rows = self.source.rows(name, begin, min(begin + piece, height))
            self._write_rows(matrix, rows, first + begin * step, step)
            # Before the next piece is read.
            del rows

    def _write_rows(self, matrix: Any, rows: Rows, first: int, step: int) -> None:
        write = matrix.write_bf16 if rows.dtype == np.uint16 else matrix.write_float
        write(rows, first, step, self.pool)

    def _joined(self, names: Sequence[str], present: bool) -> Bits | None:
        return np.concatenate([self.source.vector(f"{name}.bias") for name in names]) if present else None

    def _taking_turns_bias(self, names: Sequence[str]) -> Bits | None:
        if not self.spec.mlp_bias:
            return None
        return np.ascontiguousarray(np.stack([self.source.vector(f"{name}.bias") for name in names], axis=1).ravel())
