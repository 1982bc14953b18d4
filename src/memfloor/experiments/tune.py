"""Which launch shapes of the engine are fastest on this GPU, beyond what repeated readings differ by?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memfloor.engine.cuda import backend
from memfloor.errors import UsageError
from memfloor.measure.environment import device_info
from memfloor.record import Cell
from memfloor.runtimes.memory import free_bytes, require_memory
from memfloor.spec import ModelSpec, Workload, check_context


@dataclass(frozen=True, slots=True)
class Tuning:
    """Hold what a tuning came to.

    Attributes:
        device: Name of the GPU.
        layers: Layers of the steps that were timed.
        changed: Default and tuned shape of each operation whose shape has changed.
        default_seconds: Step with the default shapes.
        step_seconds: Step with the tuned ones, read beside it.
        tried: Shapes that were timed.
        refused: Why others were not.
        finished: Whether nothing was left to try when the time was up.
        path: File in which they are kept.
    """

    device: str
    layers: int
    changed: dict[str, tuple[str, str]]
    default_seconds: float
    step_seconds: float
    tried: int
    refused: tuple[str, ...]
    finished: bool
    path: Path


def take_tuning(
    spec: ModelSpec, workload: Workload, device_id: int, limit_seconds: float, say: Callable[[str], None]
) -> Tuning:
    """Tune the engine's launch shapes for a model on a GPU and keep them for `shapes=tuned`.

    Args:
        spec: The model; the steps that are timed have as many of its layers as fit the memory.
        workload: Context, and formats of weights, head and KV cache.
        device_id: Index of the GPU among those that are visible.
        limit_seconds: No shape is tried after this time.
        say: Told every step of the search.

    Raises:
        UsageError: No usable GPU, or the engine cannot decode this on it.
        MemoryError: The steps do not fit its memory.
    """
    device = _device(device_id)
    check_context(spec, workload.context_len)
    cell = Cell(spec=spec, workload=workload, runtime="engine", device="cuda")
    reason = backend.cell_reason(cell)
    if reason is not None:
        raise UsageError(f"the engine cannot decode {spec.name}: {reason}")
    import torch
    import triton

    from memfloor.engine.cuda.neighbours import OPS, neighbours
    from memfloor.engine.cuda.search import Search
    from memfloor.engine.cuda.step_bench import StepBench, cut_to_fit
    from memfloor.engine.cuda.tuning import TunedHow, TunedOn, save_shapes

    properties = torch.cuda.get_device_properties(device)
    few = cut_to_fit(spec, workload, free_bytes("cuda"))
    require_memory(cell.model_copy(update={"spec": few}))
    default = backend.launch_shapes(cell)
    say(f"{few.num_hidden_layers} layers of {spec.name} on {properties.name}")
    bench = StepBench(few, workload, device, backend.pdl_mode(cell))
    found = Search(bench, lambda shapes, op: neighbours(shapes, op, spec, workload), limit_seconds, say).run(default)
    driver = device_info("cuda").driver_version
    layers = few.num_hidden_layers
    how = TunedHow(driver, workload.context_len, layers, found.default_seconds, found.step_seconds)
    path = save_shapes(TunedOn.of(spec, workload, properties, triton.__version__), found.shapes, how)
    pairs = {op: (str(getattr(default, op)), str(getattr(found.shapes, op))) for op in OPS}
    return Tuning(
        device=properties.name,
        layers=layers,
        changed={op: pair for op, pair in pairs.items() if pair[0] != pair[1]},
        default_seconds=found.default_seconds,
        step_seconds=found.step_seconds,
        tried=found.tried,
        refused=found.refused,
        finished=found.finished,
        path=path,
    )


def _device(device_id: int) -> Any:
    reason = backend.machine_reason()
    if reason is not None:
        raise UsageError(f"nothing can be tuned here: {reason}")
    import torch

    count = torch.cuda.device_count()
    if not 0 <= device_id < count:
        raise UsageError(f"device-id must be 0 to {count - 1}, not {device_id}")
    torch.cuda.set_device(device_id)
    return torch.device("cuda", device_id)
