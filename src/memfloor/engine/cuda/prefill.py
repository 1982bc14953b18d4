"""The keys and values of a prompt, many tokens at a time, by a library's matrix products; a short one is replayed.

A prompt is bound by arithmetic where a decode step is bound by reads, so the decode kernels are not used.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from memfloor.engine.cuda.calls import unpack_call
from memfloor.engine.cuda.matrix import Matrix
from memfloor.engine.cuda.weights import LayerWeights, ModelWeights
from memfloor.spec import ModelSpec

# Activations of one chunk stay small beside the weights, and its products are large enough for tensor cores.
CHUNK_TOKENS = 1024
# Tokens that tensor cores take at a time; the last chunk is filled up to a multiple, so that one graph serves many.
TOKEN_TILE = 64
# cuDNN's attention does not repeat its own bits.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Prompt:
    """Fill the first slots of a cache; up to a multiple of 64, slots behind them are written too, to no effect."""

    def __init__(
        self, spec: ModelSpec, weights: ModelWeights, cache: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        """Allocate nothing yet.

        Args:
            spec: The model.
            weights: Packed weights; quantised ones are read as the bf16 numbers nearest to what they stand for.
            cache: [L, 2, Hkv, max_len, D], written in place.
            rope: Cosines and sines [positions, D / 2].
        """
        self.spec, self.weights, self.cache, self.rope = spec, weights, cache, rope
        self._graphs: dict[int, tuple[torch.Tensor, torch.cuda.CUDAGraph]] = {}
        self._unpacked: torch.Tensor | None = None

    def fill(self, tokens: Sequence[int], replayed: bool = False) -> None:
        """Write the keys and values of the tokens to the first slots; on a GPU this returns before it is done.

        Args:
            tokens: The prompt.
            replayed: Replay its first chunk as a CUDA Graph, captured when the first prompt of about that length comes.
        """
        with torch.inference_mode(), sdpa_kernel(ATTENTION):
            for first in range(0, len(tokens), CHUNK_TOKENS):
                ids = self._padded(tokens[first : first + CHUNK_TOKENS], first)
                if replayed and not first:
                    self._replay(ids)
                else:
                    self._fill_chunk(ids, first)

    def _padded(self, tokens: Sequence[int], first: int) -> torch.Tensor:
        wanted = -(-len(tokens) // TOKEN_TILE) * TOKEN_TILE
        padding = min(wanted, self.cache.shape[3] - first) - len(tokens)
        return torch.tensor([*tokens, *[0] * padding], dtype=torch.long, device=self.cache.device)

    def _replay(self, ids: torch.Tensor) -> None:
        if len(ids) not in self._graphs:
            # Once before, so that nothing is compiled or set up while capturing.
            self._fill_chunk(ids, 0)
            torch.cuda.synchronize(ids.device)
            graph, kept = torch.cuda.CUDAGraph(), ids.clone()
            with torch.cuda.graph(graph):
                self._fill_chunk(kept, 0)
            self._graphs[len(ids)] = kept, graph
        kept, graph = self._graphs[len(ids)]
        kept.copy_(ids)
        graph.replay()

    def _fill_chunk(self, ids: torch.Tensor, first: int) -> None:
        residual = self.weights.embedding[ids].float()
        cos, sin = (table[first : first + len(ids)] for table in self.rope)
        turn = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
        *layers, last = range(len(self.weights.layers))
        for index in layers:
            query = self._append(index, residual, turn, first)
            self._end_layer(self.weights.layers[index], residual, self._attend(index, query, first))
        # Behind the last layer's keys and values stand only the logits, which no prompt needs.
        self._append(last, residual, turn, first)

    def _append(
        self, index: int, residual: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor], first: int
    ) -> torch.Tensor:
        """Append a layer's keys and values to its cache and return the rotated queries [H, T, D], bf16."""
        spec, layer = self.spec, self.weights.layers[index]
        rows = self._product(self._norm(residual, layer.input_norm), layer.qkv, layer.qkv_bias)
        heads = rows.view(len(residual), -1, spec.head_dim).transpose(0, 1)
        kv_heads = spec.num_key_value_heads
        turned = heads[:-kv_heads]
        if layer.qk_norm is not None:
            query, key = (
                self._norm(part, weight)
                for part, weight in zip((turned[:-kv_heads], turned[-kv_heads:]), layer.qk_norm, strict=True)
            )
            turned = torch.cat([query, key])
        turned = torch.addcmul(turned * turn[0], turned.roll(spec.head_dim // 2, -1), turn[1])
        slots = self.cache[index, :, :, first : first + len(residual)]
        _store(turned[-kv_heads:], slots[0])
        _store(heads[-kv_heads:], slots[1])
        return turned[:-kv_heads].to(torch.bfloat16)

    def _attend(self, index: int, query: torch.Tensor, first: int) -> torch.Tensor:
        """Return the attention of queries at slots from `first` on to all slots up to their own, [T, H * D]."""
        tokens, window = query.shape[1], self.spec.window_of(index)
        keys, values = self.cache[index, :, :, : first + tokens].to(torch.bfloat16).unsqueeze(1).unbind()
        seen = None
        if first or 0 < window < tokens:
            ones = torch.ones(tokens, first + tokens, dtype=torch.bool, device=query.device)
            seen = ones.tril(first).triu(first + 1 - window if window else -tokens)
        out = scaled_dot_product_attention(
            query[None], keys, values, attn_mask=seen, is_causal=seen is None, enable_gqa=True
        )
        attended: torch.Tensor = out[0].transpose(0, 1).flatten(1)
        return attended

    def _end_layer(self, layer: LayerWeights, residual: torch.Tensor, attended: torch.Tensor) -> None:
        """Add a layer's output and MLP to the residual stream, in place."""
        residual += self._product(attended, layer.o_proj, layer.o_bias)
        halves = self._product(self._norm(residual, layer.post_norm), layer.gate_up, None)
        gate, up = halves.chunk(2, dim=-1)
        residual += self._product(silu(gate) * up, layer.down_proj, None)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the RMS norm over the last axis, float32."""
        return rms_norm(x.float(), weight.shape, weight.float(), self.spec.rms_norm_eps)

    def _product(self, x: torch.Tensor, matrix: Matrix, bias: torch.Tensor | None) -> torch.Tensor:
        """Return x W^T plus a bias, bf16 [T, N], of inputs [T, K] rounded to bf16."""
        return linear(x.to(torch.bfloat16), self._plain(matrix), bias)

    def _plain(self, matrix: Matrix) -> torch.Tensor:
        """Return weights as bf16 [N, K]: where they are packed, in a buffer that the next packed ones overwrite."""
        if isinstance(matrix, torch.Tensor):
            return matrix.flatten(0, -2)
        rows, columns = matrix.shape
        if self._unpacked is None or self._unpacked.numel() < rows * columns:
            self._unpacked = torch.empty(self._largest(), dtype=torch.bfloat16, device=matrix.words.device)
        plain = self._unpacked[: rows * columns].view(rows, columns)
        unpack_call(matrix, plain).issue()
        return plain

    def _largest(self) -> int:
        layer = self.weights.layers[0]
        return max(math.prod(each.shape) for each in (layer.qkv, layer.o_proj, layer.gate_up, layer.down_proj))


def _store(numbers: torch.Tensor, slots: torch.Tensor) -> None:
    """Write numbers as the cache keeps them; what is beyond the greatest of a type is stored as that."""
    if slots.dtype is not torch.bfloat16:
        greatest = torch.finfo(slots.dtype).max
        numbers = numbers.clamp(-greatest, greatest)
    slots.copy_(numbers)
