"""What attention backends have in common: buffers, launch modes, and what is seen of a step after the timed ones."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from memfloor.errors import UsageError
from memfloor.floor import attention_traffic
from memfloor.record import Cell, ObservedPath
from memfloor.runtimes.attention.layers import Layer, make_layers, output_error
from memfloor.runtimes.census import device_kernels, large_outputs, operator_census
from memfloor.runtimes.memory import require_bytes
from memfloor.runtimes.protocol import DecodeRequest

if TYPE_CHECKING:
    import torch

LAUNCH_OPTIONS = {"launch": ("eager", "graph")}
# Calls before a capture: libraries tune and allocate in their first ones.
WARM_CALLS = 2
# How a library refuses a shape or device.
REFUSALS = (RuntimeError, NotImplementedError, ValueError, AssertionError)

Issue = Callable[[], Sequence[Any]]


class AttentionBackend(ABC):
    """Run decode attention of all layers, one after another, each on a KV buffer pair of its own.

    A query of one token, [B, H, 1, D], attends to [B, Hkv, S, D] bf16 keys and values. Nothing else of a step is run:
    no rotation, no norm and no projection.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    options: ClassVar[Mapping[str, tuple[str, ...]]] = LAUNCH_OPTIONS
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    # Whether the cache lies in memory as [B, S, Hkv, D], and not as [B, Hkv, S, D].
    tokens_first: ClassVar[bool] = False

    def __init__(self, request: DecodeRequest) -> None:
        """Keep the request; allocate nothing yet."""
        self.request = request
        self.layers: list[Layer] = []
        self.outputs: Sequence[Any] = ()
        self.plan_seconds: float | None = None
        self._issue: Issue | None = None
        self._graph: Any = None

    @classmethod
    def unavailable_reason(cls, cell: Cell | None = None) -> str | None:
        """Say why this backend cannot run here, or this cell; None if that shows at its first call at the latest."""
        if cell is not None and cell.device not in cls.devices:
            return f"{cls.name} runs on {' and '.join(cls.devices)}, not on {cell.device}"
        reason = _torch_reason() or cls.library_reason() or (None if "cpu" in cls.devices else _gpu_reason())
        return reason if reason is not None or cell is None else _shared_reason(cell) or cls.cell_reason(cell)

    @classmethod
    def library_reason(cls) -> str | None:
        """Say which library is missing, with its install line; None if none is."""
        return None

    @classmethod
    def cell_reason(cls, cell: Cell) -> str | None:
        """Say why this cell cannot run; None if that is known only at the first call."""
        return None

    @classmethod
    def steps_per_call(cls, cell: Cell) -> int:
        """Return one: each call attends once in every layer."""
        return 1

    @abstractmethod
    def build(self) -> Issue:
        """Allocate every layer, keep the first in `layers`, and return what attends in all of them."""

    def prepare(self) -> None:
        """Allocate the buffers, attend once so that everything is compiled and, for `launch=graph`, capture.

        Raises:
            UsageError: The backend refuses the shape or the device, with its own reason.
            MemoryError: The KV buffers do not fit.
        """
        import torch

        cell = self.request.cell
        require_bytes(cell, self.needed_bytes(), "the KV buffers of all layers")
        if cell.device == "cpu" and cell.threads:
            torch.set_num_threads(cell.threads)
        # Tensors that are made in inference mode hide from a census what composite operators are made of.
        with torch.no_grad():
            issue = self._accepted(self.build)
        with torch.inference_mode():
            self._accepted(issue)
            self.warmed()
            if cell.options.get("launch") == "graph":
                self._capture(issue)
        self._issue = issue

    def warmed(self) -> None:  # noqa: B027
        """Note what the first call has left behind; nothing unless a backend compiles."""

    def needed_bytes(self) -> int:
        """Return the bytes of the KV buffers of all layers."""
        return attention_traffic(self.request.cell.spec, self.request.cell.workload).total_bytes

    def step(self) -> None:
        """Attend once in every layer; on a GPU this may return before the device has finished."""
        import torch

        if self._graph is not None:
            self._graph.replay()
            return
        issue = self._prepared()
        with torch.inference_mode():
            self.outputs = issue()

    def observed_path(self) -> ObservedPath:
        """Attend once more, compare the first layer with float32, and report which operators and kernels ran."""
        import torch

        self.step()
        with torch.inference_mode():
            error = output_error(self.first_output(), self.layers[0])
        operators = self.operators()
        if self.request.cell.device == "cuda":
            operators |= device_kernels(self.step)
        return ObservedPath(
            operators=operators,
            facts=self._common_facts() | self.facts(operators),
            output_error=error,
            plan_seconds=self.plan_seconds,
        )

    def first_output(self) -> "torch.Tensor":
        """Return the attention of the first layer, [B, H, D] in any shape."""
        output: torch.Tensor = self.outputs[0]
        return output

    def operators(self) -> dict[str, int]:
        """Return the framework's operators of an eager step."""
        return operator_census(self._prepared())

    def copies(self) -> str | None:
        """Say which operators of a step write as much as a layer's keys; None where its buffers cannot be seen."""
        found = large_outputs(self._prepared(), self.layers[0].keys.nbytes)
        return ", ".join(f"{count} {name}" for name, count in found.items()) or "none"

    def facts(self, operators: Mapping[str, int]) -> dict[str, str]:
        """Return what this backend says of itself, given what ran."""
        return {}

    def _common_facts(self) -> dict[str, str]:
        import torch

        first = self.layers[0]
        return {
            "launch": "one CUDA Graph replay per step" if self._graph is not None else "eager",
            "kv_dtype": str(first.keys.dtype),
            "kv_layout": "[B, S, Hkv, D]" if self.tokens_first else "[B, Hkv, S, D]",
            "torch_threads": str(torch.get_num_threads()),
            **({} if (copies := self.copies()) is None else {"kv_copies": copies}),
        }

    def _accepted(self, call: Callable[[], Any]) -> Any:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                return call()
            except REFUSALS as error:
                if isinstance(error, UsageError) or _is_memory(error):
                    raise
                reasons = [str(item.message).partition(" (Triggered")[0] for item in said] or [_first_line(error)]
                raise UsageError("; ".join(dict.fromkeys(reasons))) from error

    def _capture(self, issue: Issue) -> None:
        import torch

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_CALLS):
                issue()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.outputs = issue()

    def _prepared(self) -> Issue:
        if self._issue is None:
            raise UsageError("prepare the attention before its first step")
        return self._issue


class LayerByLayer(AttentionBackend):
    """Attend by one call of a library for each layer."""

    @abstractmethod
    def layer_call(self, layer: Layer) -> Callable[[], Any]:
        """Return the call that attends in one layer and returns [B, H, D] in any shape."""

    def build(self) -> Issue:
        """Allocate every layer and return what attends in all of them."""
        cell = self.request.cell
        self.layers = list(make_layers(cell, self.request.seed, tokens_first=self.tokens_first))
        calls = [self.layer_call(layer) for layer in self.layers]
        return lambda: [call() for call in calls]


def missing(package: str, install: str) -> str | None:
    """Say that a package is not installed, and how to install it; None if it is."""
    from importlib.util import find_spec

    return None if find_spec(package) else f"{package} is not installed; {install}"


def _torch_reason() -> str | None:
    # A torch that is there and cannot be imported is as good as missing.
    try:
        import torch  # noqa: F401
    except ImportError as error:
        return f"{error.name or 'torch'} is not installed; pip install 'memfloor[torch]'"
    return None


def _gpu_reason() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "it needs a CUDA GPU, and torch sees none"


def _shared_reason(cell: Cell) -> str | None:
    if cell.workload.kv != "bf16":
        return f"attention is measured over a KV cache in bf16, not {cell.workload.kv}"
    if cell.device == "cuda":
        return _gpu_reason()
    return "launch=graph needs a CUDA GPU" if cell.options.get("launch") == "graph" else None


def _is_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
