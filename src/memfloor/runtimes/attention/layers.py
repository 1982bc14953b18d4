"""What decode attention of one layer works on, and what it must give in float32."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memfloor.floor import attention_lengths
from memfloor.record import Cell, OutputError
from memfloor.runtimes.random_weights import random_tensor

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Layer:
    """Hold one layer's tensors, bf16; keys and values lie in memory as the backend keeps its cache.

    Attributes:
        query: [B, H, 1, D].
        keys: [B, Hkv, S, D].
        values: [B, Hkv, S, D].
    """

    query: "torch.Tensor"
    keys: "torch.Tensor"
    values: "torch.Tensor"

    @property
    def group(self) -> int:
        """Return the query heads that share a KV head."""
        return self.query.shape[1] // self.keys.shape[1]


def make_layers(cell: Cell, seed: int, *, tokens_first: bool = False) -> Iterator[Layer]:
    """Give each layer's tensors, normal numbers, the same for every backend of one cell.

    Args:
        cell: What is attended to, and on which device.
        seed: Of the numbers.
        tokens_first: Keep keys and values in memory as [B, S, Hkv, D] and not as [B, Hkv, S, D].
    """
    import torch

    spec, batch = cell.spec, cell.workload.batch
    for index, length in enumerate(attention_lengths(spec, cell.workload.context_len)):
        shapes = (
            (batch, spec.num_attention_heads, 1, spec.head_dim),
            *[(batch, spec.num_key_value_heads, length, spec.head_dim)] * 2,
        )
        first = seed * 3 * spec.num_hidden_layers + 3 * index
        query, keys, values = (
            random_tensor(shape, torch.bfloat16, cell.device, first + place) for place, shape in enumerate(shapes)
        )
        if tokens_first:
            keys, values = (tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (keys, values))
        yield Layer(query, keys, values)


def reference(layer: Layer) -> "torch.Tensor":
    """Return a layer's attention in float32, [B, H, D]."""
    batch, kv_heads, _, head_dim = layer.keys.shape
    query = layer.query.float().view(batch, kv_heads, layer.group, head_dim)
    scores = query @ layer.keys.float().transpose(2, 3) / head_dim**0.5
    attended: torch.Tensor = scores.softmax(dim=-1) @ layer.values.float()
    return attended.view(batch, -1, head_dim)


def output_error(output: "torch.Tensor", layer: Layer) -> OutputError:
    """Return how far an output of any shape of [B, H, D] is from the reference.

    Raises:
        RuntimeError: A number is not finite.
    """
    expected = reference(layer)
    found = output.float().reshape(expected.shape)
    if not found.isfinite().all():
        raise RuntimeError("attention gave numbers that are not finite")
    difference = found - expected
    return OutputError(relative_norm=float(difference.norm() / expected.norm()), max_abs=float(difference.abs().max()))
