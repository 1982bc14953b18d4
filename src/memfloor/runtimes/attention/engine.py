"""The project's own attention: the native operation on a CPU, the Triton kernels on a GPU."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from memfloor.engine.cpu import backend as cpu
from memfloor.engine.cuda import backend as cuda
from memfloor.record import Cell
from memfloor.runtimes.attention.backend import LAUNCH_OPTIONS, AttentionBackend, Issue
from memfloor.runtimes.attention.layers import make_layers

if TYPE_CHECKING:
    import torch

    from memfloor.engine.cpu.attention import CpuAttention
    from memfloor.engine.cuda.attention import CudaAttention

ENGINES = {"cpu": cpu, "cuda": cuda}


class EngineAttention(AttentionBackend):
    """Attend with the engine's kernels, the token's own key and value appended as in a decode step.

    On a CPU all layers are one native call, as in a replayed step, and every layer has the first one's query and last
    key and value. Options: on CUDA `launch`, `pdl` and `shapes`, on a CPU `isa`, as of the runtime.
    """

    name: ClassVar[str] = "engine"
    summary: ClassVar[str] = "this project's own attention kernels"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {**LAUNCH_OPTIONS, **cuda.OPTIONS, **cpu.OPTIONS}
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    @classmethod
    def cell_reason(cls, cell: Cell) -> str | None:
        """Say what the engine lacks for a cell; None if nothing."""
        engine = ENGINES[cell.device]
        allowed = {*engine.OPTIONS, *(LAUNCH_OPTIONS if cell.device == "cuda" else ())}
        other = [option for option in cell.options if option not in allowed]
        if other:
            return f"option {other[0]} is not for device {cell.device}"
        reason: str | None = engine.machine_reason() or engine.cell_reason(cell)
        return reason

    def needed_bytes(self) -> int:
        """Return the bytes of the engine's cache and of one layer that it is filled from."""
        total = super().needed_bytes()
        return total + total // self.request.cell.spec.num_hidden_layers

    def build(self) -> Issue:
        """Fill the engine's own cache layer by layer and return what attends in all of them."""
        self._cpu: CpuAttention | None = None
        self._cuda: CudaAttention | None = None
        return self._build_cpu() if self.request.cell.device == "cpu" else self._build_cuda()

    def first_output(self) -> "torch.Tensor":
        """Return the attention of the first layer."""
        import torch

        if self._cpu is not None:
            return torch.from_numpy(self._cpu.first_output())
        return super().first_output()

    def operators(self) -> dict[str, int]:
        """Return the operations of a step."""
        if self._cuda is not None:
            return self._cuda.plan.counts()
        layers = self.request.cell.spec.num_hidden_layers
        return {"attention": layers, "join": layers}

    def copies(self) -> str:
        """Say that none of the operations copies keys or values."""
        return "none"

    def facts(self, operators: Mapping[str, int]) -> dict[str, str]:
        """Return the instruction set and threads, or the launch shape."""
        if self._cpu is not None:
            return {
                "launch": "one native call for all layers",
                "isa": self._cpu.isa,
                "pool_threads": str(self._cpu.pool.size),
                "join": "with the fewest rows of an output projection",
            }
        assert self._cuda is not None
        return {"shapes": self._origin, "shape_attention": str(self._cuda.shape), "pdl": str(self._cuda.pdl)}

    def _build_cpu(self) -> Issue:
        from memfloor.engine.cpu.attention import CpuAttention
        from memfloor.engine.cpu.native import allowed_cpus, native

        cell = self.request.cell
        isa = cell.options.get("isa", native().usable_isas()[0])
        pool = native().Pool(allowed_cpus(cell.threads))
        attention = CpuAttention(cell.spec, cell.workload.context_len, isa, pool)
        for index, layer in enumerate(make_layers(cell, self.request.seed)):
            self.layers = self.layers or [layer]
            attention.fill(index, *(part[0].float().numpy() for part in (layer.keys, layer.values)))
        first = self.layers[0]
        last = (part[0, :, -1] for part in (first.keys, first.values))
        attention.start(*(part.float().numpy() for part in (first.query[0, :, 0], *last)))
        self._cpu = attention

        def issue() -> Sequence[Any]:
            attention.issue()
            return ()

        return issue

    def _build_cuda(self) -> Issue:
        import torch

        from memfloor.engine.cuda.attention import CudaAttention

        cell = self.request.cell
        device = torch.device("cuda", torch.cuda.current_device())
        shapes = cuda.launch_shapes(cell).fitted(cell.spec)
        self._origin = shapes.origin
        attention = CudaAttention(cell.spec, cell.workload.context_len, device, shapes.attention, cuda.pdl_mode(cell))
        for layer in make_layers(cell, self.request.seed):
            self.layers = self.layers or [layer]
            attention.add_layer(layer.query[0, :, 0], layer.keys[0], layer.values[0])
        self._cuda = attention
        plan = attention.plan

        def issue() -> Sequence[Any]:
            plan.issue()
            return attention.outputs

        return issue
