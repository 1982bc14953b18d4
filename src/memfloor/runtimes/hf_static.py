"""Hugging Face transformers with a static cache: eager, or captured once as a CUDA Graph and replayed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from memfloor.record import Cell
from memfloor.runtimes.hf import HfEager
from memfloor.runtimes.hf_model import torch_dtype
from memfloor.runtimes.protocol import DecodeRequest

if TYPE_CHECKING:
    import torch

LAUNCH_MODES = ("eager", "graph")
SETTLING_STEPS = 2


class HfStatic(HfEager):
    """Decode with a `StaticCache`; `launch=graph` replays the same step as one CUDA Graph.

    Both modes run the same operators on the same buffers, so that their A/B isolates the launch, and the census of an
    eager step holds for both. Attention reads the whole cache under a mask, so its length is the context at the end of
    the run.
    """

    name: ClassVar[str] = "hf-static"
    summary: ClassVar[str] = "Hugging Face transformers, static cache; launch=graph replays one CUDA Graph"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {**HfEager.options, "launch": LAUNCH_MODES}

    def __init__(self, request: DecodeRequest) -> None:
        super().__init__(request)
        self.launch = request.cell.options.get("launch", "eager")
        self.graph: Any = None
        self._graph_logits: torch.Tensor | None = None

    @classmethod
    def unavailable_reason(cls, cell: Cell | None = None) -> str | None:
        """Say why transformers cannot run here, or not this cell."""
        reason = super().unavailable_reason(cell)
        if reason is not None or cell is None:
            return reason
        if cell.options.get("launch") == "graph" and cell.device != "cuda":
            return "launch=graph needs a CUDA GPU"
        return None

    @classmethod
    def launches_one_by_one(cls, cell: Cell) -> bool:
        """Tell whether the step is not replayed from a graph."""
        return cell.options.get("launch", "eager") == "eager"

    def prepare(self) -> None:
        """Build the model and its cache, take steps until libraries have settled and, for `launch=graph`, capture one.

        Both launch modes take the same steps and start over, so that libraries have chosen and allocated alike.
        """
        super().prepare()
        if self.request.cell.device != "cuda":
            return
        assert self.token is not None
        first = self.token.clone()
        self._settle()
        if self.launch == "graph":
            self._capture()
        self.restart(first)

    def make_cache(self) -> Any:
        """Return a cache with room for every step of the run and the census after it."""
        from transformers import StaticCache

        cell = self.request.cell
        # Settling steps, a capture and the census after the run take a slot each.
        room = self.request.start_len + self.request.max_steps + 2 * SETTLING_STEPS + 2
        cache = StaticCache(config=self.model.config, max_cache_len=room)
        # Allocated in a step of its own accord, an empty one could not be written to outside of steps.
        cache.early_initialization(
            cell.workload.batch,
            cell.spec.num_key_value_heads,
            cell.spec.head_dim,
            torch_dtype(cell.workload.kv),
            self.model.device,
        )
        return cache

    def forward(self) -> "torch.Tensor":
        """Run the model on the token buffer, write the next token into it and return the logits."""
        assert self.token is not None
        logits: torch.Tensor = self.model(input_ids=self.token, past_key_values=self.cache, use_cache=True).logits
        self.token.copy_(logits[:, -1:].argmax(dim=-1))
        return logits[:, -1:]

    def step(self) -> None:
        """Take one step by the launch mode."""
        if self.graph is None:
            super().step()
        else:
            self.graph.replay()

    def step_with_logits(self) -> "torch.Tensor | None":
        """Take one step by the launch mode and return its logits."""
        if self.graph is None:
            return super().step_with_logits()
        self.graph.replay()
        return self._graph_logits

    def rewind(self) -> None:
        """Set the lengths of the cache back, and the token buffer; a window that has moved on is filled again."""
        import torch

        if self.request.cell.spec.num_sliding_layers:
            self.restart(self.first_token())
            return
        with torch.no_grad():
            for layer in self.cache.layers:
                layer.cumulative_length.fill_(self.request.start_len)
        self._feed_first()

    def restart(self, first: "torch.Tensor") -> None:
        """Bring cache and token buffer back to where a decode from the token `first`, [B, 1], starts."""
        assert self.token is not None
        self.cache.reset()
        self.token.copy_(first)
        self.fill()

    def prefill(self) -> None:
        """Empty the cache, fill it with the prompt, in chunks, and feed the first token again, in the same buffers."""
        self.cache.reset()
        self._prefill()
        self._feed_first()

    def _feed_first(self) -> None:
        assert self.token is not None
        self.token.copy_(self.first_token())

    def facts(self) -> dict[str, str]:
        """Return what the prepared model says of itself, and how a step is launched."""
        return super().facts() | {"launch": "eager" if self.graph is None else "one CUDA Graph replay per step"}

    def _settle(self) -> None:
        import torch

        # A capture wants steps on a stream of its own before it; eager steps take the current one.
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        for each in (stream, current):
            with torch.cuda.stream(each), torch.inference_mode():
                for _ in range(SETTLING_STEPS):
                    self.forward()
            current.wait_stream(stream)

    def _capture(self) -> None:
        import torch

        self.graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self.graph):
            self._graph_logits = self.forward()
