"""Hugging Face transformers under torch.compile: the step of the static cache, compiled by Inductor as one graph."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from memfloor.errors import UsageError
from memfloor.record import Cell, ObservedPath
from memfloor.runtimes.hf import HfEager
from memfloor.runtimes.hf_static import HfStatic
from memfloor.runtimes.inductor import compiled_graphs, kernel_calls, missing_compiler, triton_reason
from memfloor.runtimes.protocol import DecodeRequest, TracedParts

if TYPE_CHECKING:
    import torch

# CUDA Graphs, which `reduce-overhead` adds, remove the launches of a GPU; a CPU has none, and ignores them.
GRAPH_MODE = "reduce-overhead"
DEFAULT_MODES = {"cuda": GRAPH_MODE, "cpu": "default"}
MODES = ("default", GRAPH_MODE, "max-autotune-no-cudagraphs")
BACKEND = "inductor"
# The first compiles; with CUDA Graphs the second records and the third replays.
WARM_STEPS = 3


class HfCompile(HfStatic):
    """Decode with a `StaticCache` and a compiled step, the choice of the next token included.

    The step is one graph or an error: nothing falls back to eager. Option `mode`: torch.compile's, reduce-overhead
    (CUDA Graphs) unless given on a GPU, default on a CPU.
    """

    name: ClassVar[str] = "hf-compile"
    summary: ClassVar[str] = "Hugging Face transformers, static cache, torch.compile as one graph"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {**HfEager.options, "mode": MODES}

    def __init__(self, request: DecodeRequest) -> None:
        super().__init__(request)
        self.mode = _mode(request.cell)
        self._compiled: Callable[[], None] | None = None
        self._graphs_after_warm_up = 0

    @classmethod
    def unavailable_reason(cls, cell: Cell | None = None) -> str | None:
        """Say why transformers cannot run here, or this cell, or what torch.compile lacks."""
        reason = super().unavailable_reason(cell) or missing_compiler()
        if reason is not None or cell is None:
            return reason
        slides = "sliding-window attention recompiles" if cell.spec.num_sliding_layers else None
        return triton_reason(cell.device) or slides

    @classmethod
    def launches_one_by_one(cls, cell: Cell) -> bool:
        """Tell whether compiled code launches kernels singly: on a GPU, in every mode without CUDA Graphs."""
        return cell.device == "cuda" and _mode(cell) != GRAPH_MODE

    def traced_parts(self) -> TracedParts | None:
        """Return nothing to label by, for compiled kernels belong to no single module; None on a CPU.

        What their names tell of kernels of a GPU they do not tell of loops that Inductor has fused for a CPU.
        """
        return TracedParts() if self.request.cell.device == "cuda" else None

    def prepare(self) -> None:
        """Build the model and its cache, compile the step, and bring cache and token back to the start."""
        import torch

        super().prepare()
        assert self.token is not None
        first = self.token.clone()
        # CUDA Graphs write only into tensors whose address they may keep.
        torch._dynamo.mark_static_address(self.token)
        # Decode is one shape, and a symbolic one would cost kernels their constants.
        self._compiled = torch.compile(
            self._choose_token, backend=BACKEND, mode=self.mode, fullgraph=True, dynamic=False
        )
        for _ in range(WARM_STEPS):
            self.step()
        self._graphs_after_warm_up = compiled_graphs()
        self.restart(first)

    def step(self) -> None:
        """Run the compiled step on the token buffer."""
        import torch

        if self._compiled is None:
            raise UsageError("prepare the runtime before its first step")
        with torch.inference_mode():
            self._compiled()

    def step_with_logits(self) -> "torch.Tensor | None":
        """Take the compiled step, which keeps no logits: as an output they would change what is compiled."""
        self.step()
        return None

    def kept_logits(self) -> "torch.Tensor":
        """Take the same step uncompiled, on the same weights and cache, and return its logits.

        What Inductor fuses it keeps in float32 where operators round, so the compiled step's own may differ by that.
        """
        import torch

        with torch.inference_mode():
            return self.forward()

    def observed_path(self) -> ObservedPath:
        """Take one more step, and count the kernels in the code that Inductor wrote for it."""
        from torch._dynamo.utils import counters

        self.step()
        facts = self.facts() | {
            "launch": f"torch.compile, mode {self.mode}",
            "backend": BACKEND,
            "graphs": str(compiled_graphs()),
            "graph_breaks": str(sum(counters["graph_break"].values())),
            "recompiles_after_warm_up": str(compiled_graphs() - self._graphs_after_warm_up),
            "cuda_graph_skips": str(counters["inductor"]["cudagraph_skips"]),
        }
        return ObservedPath(operators=kernel_calls(), facts=facts)

    def _choose_token(self) -> None:
        self.forward()


def _mode(cell: Cell) -> str:
    return cell.options.get("mode", DEFAULT_MODES[cell.device])
