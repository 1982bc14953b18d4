"""Attention of a step alone on a GPU: the kernels of each layer over a cache of its own, as a plan."""

import math

import torch

from memfloor.engine.cuda.calls import Heads, KernelCall, attention_calls
from memfloor.engine.cuda.kv_cache import allocate_cache
from memfloor.engine.cuda.launch_shapes import AttentionShape
from memfloor.engine.plan import Plan
from memfloor.spec import ModelSpec

Tensor = torch.Tensor


class CudaAttention:
    """Attend from one token in every layer, its own key and value joined last and appended, as in a decode step.

    Queries are taken as they come: not normed, not rotated.
    """

    def __init__(
        self, spec: ModelSpec, context_len: int, device: torch.device, shape: AttentionShape, pdl: int
    ) -> None:
        """Allocate the cache and what the kernels hand to one another.

        Args:
            spec: The model, at batch 1.
            context_len: Slots that are attended to, the token's own included.
            device: Where.
            shape: Launch shape.
            pdl: Mode of programmatic dependent launch, from `kernels.dependency`.
        """
        self.spec, self.shape, self.pdl = spec, shape, pdl
        self.cache = allocate_cache(spec, context_len, device)
        self.position = torch.full((1,), context_len - 1, dtype=torch.int32, device=device)
        rows = spec.num_attention_heads * shape.splits(context_len)
        sizes = (rows * spec.head_dim, rows, rows)
        self._scratch = tuple(torch.zeros(size, dtype=torch.float32, device=device) for size in sizes)
        self.outputs: list[Tensor] = []
        self._calls: list[KernelCall] = []

    def add_layer(self, query: Tensor, keys: Tensor, values: Tensor) -> None:
        """Fill the next layer from a query [H, D] and the keys and values it sees [Hkv, S, D], its own last."""
        layer = len(self.outputs)
        cache = self.cache[layer]
        cache[:, :, -keys.shape[1] :] = torch.stack([keys, values])
        # What the projection's kernel leaves: queries times the softmax's scale and log2(e), in float32.
        scaled = query.float() * (math.log2(math.e) / self.spec.head_dim**0.5)
        token = torch.cat([part.flatten().float() for part in (scaled, keys[:, -1], values[:, -1])])
        heads = Heads(token, None, self.spec.num_key_value_heads, self.spec.head_dim)
        self.outputs.append(torch.zeros(query.numel(), dtype=torch.bfloat16, device=query.device))
        first, second, third = self._scratch
        self._calls += attention_calls(
            heads,
            self.position,
            cache,
            self.outputs[-1],
            (first, second, third),
            eps=self.spec.rms_norm_eps,
            shape=self.shape,
            pdl=self.pdl,
            window=self.spec.window_of(layer),
        )

    @property
    def plan(self) -> Plan:
        """Return the kernel calls of all layers, in order."""
        return Plan(self._calls)
