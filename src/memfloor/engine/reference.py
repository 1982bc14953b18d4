"""One decode step in plain float32 torch, from the kernels' references: the truth of the whole engine."""

import torch

from memfloor.engine.cuda.matrix import dequantize
from memfloor.engine.cuda.weights import LayerWeights, ModelWeights
from memfloor.engine.kernels.attention.reference import attention
from memfloor.engine.kernels.embed.reference import embed
from memfloor.engine.kernels.gate_up.reference import gate_up
from memfloor.engine.kernels.head.reference import head
from memfloor.engine.kernels.projection.reference import projection
from memfloor.engine.kernels.qkv.reference import qkv
from memfloor.spec import ModelSpec


def reference_logits(
    spec: ModelSpec,
    weights: ModelWeights,
    cache: torch.Tensor,
    rope: tuple[torch.Tensor, torch.Tensor],
    token: int,
    position: int,
) -> torch.Tensor:
    """Return the logits, float32 [V], of one step; the cache is read, not appended to.

    Args:
        spec: The model.
        weights: Packed weights; quantised ones stand for what they dequantise to.
        cache: [L, 2, Hkv, max_len, D]; slots below `position` are attended to, those in a layer's window.
        rope: Cosines and sines [positions, D / 2].
        token: The token decoded.
        position: Its slot.
    """
    layers = weights.layers
    next_norms = [layer.input_norm for layer in layers[1:]] + [weights.final_norm]
    residual, normed, squares = embed(token, weights.embedding, layers[0].input_norm)
    for index, (layer, layer_cache, next_norm) in enumerate(zip(layers, cache, next_norms, strict=True)):
        attended = _attend(spec, layer, layer_cache, rope, (normed, squares), position, spec.window_of(index))
        residual, normed, squares = projection(
            attended, dequantize(layer.o_proj), layer.o_bias, residual, layer.post_norm
        )
        halves = dequantize(layer.gate_up).view(2, spec.intermediate_size, spec.hidden_size)
        joined = gate_up(normed, squares, halves, spec.rms_norm_eps)
        residual, normed, squares = projection(joined, dequantize(layer.down_proj), None, residual, next_norm)
    return head(normed, squares, dequantize(weights.head), spec.rms_norm_eps)


def _attend(
    spec: ModelSpec,
    layer: LayerWeights,
    cache: torch.Tensor,
    rope: tuple[torch.Tensor, torch.Tensor],
    normed: tuple[torch.Tensor, torch.Tensor],
    position: int,
    window: int,
) -> torch.Tensor:
    heads = qkv(*normed, dequantize(layer.qkv), layer.qkv_bias, spec.rms_norm_eps)
    out, _, _ = attention(heads, position, *rope, cache[0], cache[1], layer.qk_norm, spec.rms_norm_eps, window)
    return out.flatten()
