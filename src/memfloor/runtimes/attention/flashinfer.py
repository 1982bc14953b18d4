"""FlashInfer's batch decode over a paged KV cache: planned once, outside the timed steps, for layers of one length."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from memfloor.runtimes.attention.backend import LAUNCH_OPTIONS, Issue, LayerByLayer, missing
from memfloor.runtimes.attention.layers import Layer, make_layers

if TYPE_CHECKING:
    import torch

INSTALL = "pip install 'memfloor[flashinfer]'"
PAGE_TOKENS = 16
WORKSPACE_BYTES = 128 * 2**20
# Group sizes that its decode kernels without tensor cores are made for; the others need the prefill kernels.
CUDA_CORE_GROUPS = (1, 2, 3, 4, 8)


class FlashInfer(LayerByLayer):
    """Attend with `BatchDecodeWithPagedKVCacheWrapper`.

    Option `cores`: cuda or tensor; unless given, cuda where its decode kernels have the group size, tensor elsewhere.
    """

    name: ClassVar[str] = "flashinfer"
    summary: ClassVar[str] = "FlashInfer, batch decode wrapper over a paged cache, planned ahead"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"cores": ("cuda", "tensor"), **LAUNCH_OPTIONS}
    tokens_first: ClassVar[bool] = True

    @classmethod
    def library_reason(cls) -> str | None:
        """Say that the package is missing, with its install line; None if it is not."""
        return missing("flashinfer", INSTALL)

    def build(self) -> Issue:
        """Page every layer and return what attends in all of them; only the first is kept unpaged, to compare with."""
        self._wrappers: dict[int, Any] = {}
        calls = []
        for layer in make_layers(self.request.cell, self.request.seed):
            self.layers = self.layers or [layer]
            calls.append(self.layer_call(layer))
        return lambda: [call() for call in calls]

    def layer_call(self, layer: Layer) -> Callable[[], Any]:
        """Return the call that attends in one layer; layers of one length share a plan."""
        query = layer.query[:, :, 0].contiguous()
        pages = paged(layer.keys), paged(layer.values)
        wrapper = self._wrapper(layer)
        return lambda: wrapper.run(query, pages)

    def facts(self, operators: Mapping[str, int]) -> dict[str, str]:
        """Return the kind of kernels and the size of a page."""
        return {"cores": self._cores(self.layers[0]), "page_tokens": str(PAGE_TOKENS)}

    def _wrapper(self, layer: Layer) -> Any:
        length = layer.keys.shape[2]
        if length not in self._wrappers:
            self._wrappers[length] = self._planned(layer)
        return self._wrappers[length]

    def _planned(self, layer: Layer) -> Any:
        import torch
        from flashinfer import BatchDecodeWithPagedKVCacheWrapper

        device = layer.keys.device
        batch, kv_heads, length, head_dim = layer.keys.shape
        indptr, indices, last = (part.to(device) for part in page_table(batch, length))
        graph = self.request.cell.options.get("launch") == "graph"
        buffers = (indptr.clone(), indices.clone(), last.clone()) if graph else (None, None, None)
        wrapper = BatchDecodeWithPagedKVCacheWrapper(
            torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device),
            "NHD",
            use_cuda_graph=graph,
            use_tensor_cores=self._cores(layer) == "tensor",
            paged_kv_indptr_buffer=buffers[0],
            paged_kv_indices_buffer=buffers[1],
            paged_kv_last_page_len_buffer=buffers[2],
        )

        def plan() -> None:
            wrapper.plan(
                indptr,
                indices,
                last,
                layer.query.shape[1],
                kv_heads,
                head_dim,
                PAGE_TOKENS,
                q_data_type=torch.bfloat16,
                kv_data_type=torch.bfloat16,
            )
            torch.cuda.synchronize()

        # The first compiles the kernels; the second is what a decode pays whenever a page is added.
        plan()
        begin = time.perf_counter()
        plan()
        self.plan_seconds = (self.plan_seconds or 0.0) + time.perf_counter() - begin
        return wrapper

    def _cores(self, layer: Layer) -> str:
        default = "cuda" if layer.group in CUDA_CORE_GROUPS else "tensor"
        return self.request.cell.options.get("cores", default)


def paged(cached: "torch.Tensor") -> "torch.Tensor":
    """Return keys or values [B, Hkv, S, D] as pages [B * pages, PAGE_TOKENS, Hkv, D], filled up with zeros."""
    from torch.nn.functional import pad

    batch, kv_heads, length, head_dim = cached.shape
    missing_tokens = -length % PAGE_TOKENS
    whole = pad(cached.transpose(1, 2), (0, 0, 0, 0, 0, missing_tokens))
    return whole.reshape(batch * (length + missing_tokens) // PAGE_TOKENS, PAGE_TOKENS, kv_heads, head_dim).contiguous()


def page_table(batch: int, length: int) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """Return where each sequence's pages begin [B + 1], the pages, and the tokens on its last page [B]; int32."""
    import torch

    pages = -(-length // PAGE_TOKENS)
    last = length - (pages - 1) * PAGE_TOKENS
    return (
        torch.arange(batch + 1, dtype=torch.int32) * pages,
        torch.arange(batch * pages, dtype=torch.int32),
        torch.full((batch,), last, dtype=torch.int32),
    )
