"""The keys and values of a prompt, many tokens at a time, by a library's matrix products over the packed weights.

A prompt is bound by arithmetic where a decode step is bound by reads, so the decode kernels are not used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from memfloor.engine.cuda.matrix import Matrix, dequantize
from memfloor.engine.cuda.weights import LayerWeights, ModelWeights
from memfloor.engine.kernels.attention.reference import rms_norm
from memfloor.engine.kernels.qkv.reference import rotate
from memfloor.spec import ModelSpec

# Activations of one chunk stay small beside the weights, and its products are large enough for tensor cores.
CHUNK_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Prompt:
    """Fill the first slots of a cache.

    Attributes:
        spec: The model.
        weights: Packed weights; quantised ones are read as the bf16 numbers nearest to what they stand for.
        cache: [L, 2, Hkv, max_len, D], written in place.
        rope: Cosines and sines [positions, D / 2].
    """

    spec: ModelSpec
    weights: ModelWeights
    cache: torch.Tensor
    rope: tuple[torch.Tensor, torch.Tensor]

    def fill(self, tokens: Sequence[int]) -> None:
        """Write the keys and values of the tokens to the first slots; on a GPU this returns before it is done."""
        ids = torch.tensor(tokens, dtype=torch.long, device=self.cache.device)
        with torch.inference_mode():
            for first in range(0, len(tokens), CHUNK_TOKENS):
                self._fill_chunk(ids[first : first + CHUNK_TOKENS], first)

    def _fill_chunk(self, ids: torch.Tensor, first: int) -> None:
        residual = self.weights.embedding[ids].float()
        *layers, last = range(len(self.weights.layers))
        for index in layers:
            query = self._append(index, residual, first)
            residual = self._end_layer(self.weights.layers[index], residual, self._attend(index, query, first))
        # Behind the last layer's keys and values stand only the logits, which no prompt needs.
        self._append(last, residual, first)

    def _append(self, index: int, residual: torch.Tensor, first: int) -> torch.Tensor:
        """Append a layer's keys and values to its cache and return the rotated queries [H, T, D], float32."""
        spec, layer = self.spec, self.weights.layers[index]
        normed = rms_norm(residual, layer.input_norm, spec.rms_norm_eps)
        heads = _product(normed, layer.qkv, layer.qkv_bias).view(len(residual), -1, spec.head_dim).transpose(0, 1)
        kv_heads = spec.num_key_value_heads
        query, key, value = heads[: -2 * kv_heads], heads[-2 * kv_heads : -kv_heads], heads[-kv_heads:]
        if layer.qk_norm is not None:
            query = rms_norm(query, layer.qk_norm[0], spec.rms_norm_eps)
            key = rms_norm(key, layer.qk_norm[1], spec.rms_norm_eps)
        cos, sin = (table[first : first + len(residual)] for table in self.rope)
        slots = self.cache[index, :, :, first : first + len(residual)]
        slots.copy_(_stored(torch.stack([rotate(key, cos, sin), value]), self.cache.dtype))
        return rotate(query, cos, sin)

    def _attend(self, index: int, query: torch.Tensor, first: int) -> torch.Tensor:
        """Return the attention of queries at slots from `first` on to all slots up to their own, [T, H * D]."""
        tokens = query.shape[1]
        keys, values = self.cache[index, :, :, : first + tokens].to(torch.bfloat16).unsqueeze(1).unbind()
        seen = None
        if first:
            ones = torch.ones(tokens, first + tokens, dtype=torch.bool, device=query.device)
            seen = ones.tril(first)
        out = scaled_dot_product_attention(
            query[None].to(torch.bfloat16), keys, values, attn_mask=seen, is_causal=seen is None, enable_gqa=True
        )
        attended: torch.Tensor = out[0].transpose(0, 1).flatten(1)
        return attended

    def _end_layer(self, layer: LayerWeights, residual: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        residual = residual + _product(attended, layer.o_proj, layer.o_bias)
        normed = rms_norm(residual, layer.post_norm, self.spec.rms_norm_eps)
        gate, up = _product(normed, layer.gate_up, None).chunk(2, dim=-1)
        return residual + _product(silu(gate) * up, layer.down_proj, None)


def _product(x: torch.Tensor, matrix: Matrix, bias: torch.Tensor | None) -> torch.Tensor:
    """Return x W^T plus a bias, float32 [T, N], of inputs [T, K] rounded to bf16."""
    weights = matrix if isinstance(matrix, torch.Tensor) else dequantize(matrix).to(torch.bfloat16)
    out = linear(x.to(torch.bfloat16), weights.flatten(0, -2), bias)
    return out.float()


def _stored(numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return numbers as the cache keeps them; what is beyond the greatest of a type is stored as that."""
    if dtype is torch.bfloat16:
        return numbers.to(dtype)
    greatest = torch.finfo(dtype).max
    return numbers.clamp(-greatest, greatest).to(dtype)
