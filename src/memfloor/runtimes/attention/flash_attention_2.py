"""FlashAttention-2 from its own package: the KV-cache call, which splits a long cache over the GPU."""

from collections.abc import Callable
from typing import Any, ClassVar

from memfloor.record import Cell
from memfloor.runtimes.attention.backend import LayerByLayer, missing
from memfloor.runtimes.attention.layers import Layer

INSTALL = "pip install flash-attn --no-build-isolation, which compiles it for a CUDA GPU"


class FlashAttention2(LayerByLayer):
    """Attend with `flash_attn.flash_attn_with_kvcache`, its own choice of splits."""

    name: ClassVar[str] = "flash-attention-2"
    summary: ClassVar[str] = "FlashAttention-2, flash_attn_with_kvcache"
    tokens_first: ClassVar[bool] = True

    @classmethod
    def library_reason(cls) -> str | None:
        """Say that the package is missing, with its install line; None if it is not."""
        return missing("flash_attn", INSTALL)

    @classmethod
    def cell_reason(cls, cell: Cell) -> str | None:
        """Say that the GPU is older than the package's kernels; None if it is not."""
        return older_than((8, 0), "FlashAttention-2")

    def layer_call(self, layer: Layer) -> Callable[[], Any]:
        """Return the call that attends in one layer."""
        from flash_attn import flash_attn_with_kvcache

        query, keys, values = tokens_first(layer)
        lengths = cached_lengths(layer)
        return lambda: flash_attn_with_kvcache(query, keys, values, cache_seqlens=lengths, causal=False)


def older_than(capability: tuple[int, int], what: str) -> str | None:
    """Say that the GPU's compute capability is below what something needs; None if it is not."""
    import torch

    found = torch.cuda.get_device_capability()
    if found >= capability:
        return None
    need = ".".join(map(str, capability))
    return f"{what} needs compute capability {need}, and this GPU has {found[0]}.{found[1]}"


def tokens_first(layer: Layer) -> tuple[Any, Any, Any]:
    """Return query [B, 1, H, D], keys and values [B, S, Hkv, D], all views of the layer's."""
    return layer.query.transpose(1, 2), layer.keys.transpose(1, 2), layer.values.transpose(1, 2)


def cached_lengths(layer: Layer) -> Any:
    """Return the cached tokens of each sequence, int32 [B], on the layer's device."""
    import torch

    batch, _, length, _ = layer.keys.shape
    return torch.full((batch,), length, dtype=torch.int32, device=layer.keys.device)
