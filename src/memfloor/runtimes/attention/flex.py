"""torch's flex_attention, compiled by Inductor for the shape before the first timed step."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from memfloor.record import Cell
from memfloor.runtimes.attention.backend import Issue, LayerByLayer
from memfloor.runtimes.attention.layers import Layer
from memfloor.runtimes.inductor import compiled_graphs, kernel_calls, missing_compiler, triton_reason


class Flex(LayerByLayer):
    """Attend with a compiled `flex_attention`, no score modification and no mask: on a GPU its split decode kernel."""

    name: ClassVar[str] = "flex"
    summary: ClassVar[str] = "torch.nn.attention.flex_attention under torch.compile"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    @classmethod
    def library_reason(cls) -> str | None:
        """Say what torch.compile lacks; None if nothing."""
        return missing_compiler()

    @classmethod
    def cell_reason(cls, cell: Cell) -> str | None:
        """Say what torch.compile lacks on the cell's device; None if nothing."""
        return triton_reason(cell.device)

    def build(self) -> Issue:
        """Return what attends in all layers; its first call compiles."""
        import torch
        from torch.nn.attention.flex_attention import flex_attention

        # A shape of its own for each length: a symbolic one would cost kernels their constants.
        self._compiled = torch.compile(flex_attention, fullgraph=True, dynamic=False)
        return super().build()

    def warmed(self) -> None:
        """Count what was compiled."""
        self._graphs_before = compiled_graphs()

    def layer_call(self, layer: Layer) -> Callable[[], Any]:
        """Return the call that attends in one layer."""
        attend, grouped = self._compiled, layer.group > 1
        query, keys, values = layer.query, layer.keys, layer.values
        return lambda: attend(query, keys, values, enable_gqa=grouped)

    def operators(self) -> dict[str, int]:
        """Return the kernels in the code that Inductor wrote for the layers, once for all that share a shape."""
        return kernel_calls()

    def copies(self) -> None:
        """Say nothing: compiled code does not show its buffers."""

    def facts(self, operators: Mapping[str, int]) -> dict[str, str]:
        """Return how often the call was compiled, before and after the first step."""
        graphs = compiled_graphs()
        return {"graphs": str(graphs), "recompiles_after_warm_up": str(graphs - self._graphs_before)}
