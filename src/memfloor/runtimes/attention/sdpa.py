"""torch's scaled_dot_product_attention, as torch chooses its back end, or with one of them pinned."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from memfloor.runtimes.attention.backend import LAUNCH_OPTIONS, Issue, LayerByLayer
from memfloor.runtimes.attention.layers import Layer
from memfloor.runtimes.hf import SDPA_BACKENDS, pin_sdpa

# What each fused back end's operator has in its name; the unfused one is made of others.
FUSED = {
    "flash": "_scaled_dot_product_flash_attention",
    "efficient": "_scaled_dot_product_efficient_attention",
    "cudnn": "_scaled_dot_product_cudnn_attention",
}
UNFUSED = ("aten::_safe_softmax", "aten::_softmax", "aten::_scaled_dot_product_attention_math")


class Sdpa(LayerByLayer):
    """Attend with torch's scaled_dot_product_attention.

    Options: `backend`, one that is pinned; `gqa` = heads (torch's own `enable_gqa`, the default) or rows (the query
    heads that share a KV head become query rows of it, which any back end takes as a view); the memory-efficient one
    has no `enable_gqa` and takes rows unless told otherwise.
    """

    name: ClassVar[str] = "sdpa"
    summary: ClassVar[str] = "torch.nn.functional.scaled_dot_product_attention, its own choice or a pinned back end"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "backend": SDPA_BACKENDS,
        "gqa": ("heads", "rows"),
        **LAUNCH_OPTIONS,
    }
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def build(self) -> Issue:
        """Pin the back end for the life of this process and return what attends in all layers."""
        pin_sdpa(self._backend)
        return super().build()

    def layer_call(self, layer: Layer) -> Callable[[], Any]:
        """Return the call that attends in one layer."""
        from torch.nn.functional import scaled_dot_product_attention

        query, keys, values = layer.query, layer.keys, layer.values
        if self._gqa == "rows":
            rows = query.view(keys.shape[0], keys.shape[1], layer.group, -1)
            return lambda: scaled_dot_product_attention(rows, keys, values)
        grouped = layer.group > 1
        return lambda: scaled_dot_product_attention(query, keys, values, enable_gqa=grouped)

    def facts(self, operators: Mapping[str, int]) -> dict[str, str]:
        """Return the back end asked for and the one whose operators ran."""
        return {"asked": self._backend, "ran": ran_by(operators), "gqa": self._gqa}

    @property
    def _backend(self) -> str:
        return self.request.cell.options.get("backend", "default")

    @property
    def _gqa(self) -> str:
        return self.request.cell.options.get("gqa", "rows" if self._backend == "efficient" else "heads")


def ran_by(operators: Mapping[str, int]) -> str:
    """Return the back end of scaled_dot_product_attention that operators belong to."""
    for backend, part in FUSED.items():
        if any(part in name for name in operators):
            return backend
    return "math" if any(name in operators for name in UNFUSED) else "unknown"
