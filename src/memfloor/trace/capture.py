"""Take a trace of a few steps with torch.profiler; never in a process whose steps are timed."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memfloor.trace.steps import CACHE_UPDATE, MODULE, SETTLE, STEP

# The profiler's own first steps are slow.
WARM_STEPS = 2


def capture_steps(
    step: Callable[[], None], steps: int, device: str, path: Path, beside: Callable[[], None] | None = None
) -> None:
    """Trace a number of steps, each annotated and each ended before the next begins.

    Args:
        step: One decode step.
        steps: Steps to trace.
        device: `cpu` or `cuda`.
        path: Where the trace goes; a name that ends in .gz is gzipped. Perfetto opens it.
        beside: Called right before each traced step and after the last one; where it is given, a step that settles
            the caches precedes each traced one.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function, schedule

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None

    def take(name: str) -> None:
        wait()
        with record_function(name):
            step()
        wait()

    with profile(
        activities=activities,
        schedule=schedule(wait=0, warmup=WARM_STEPS, active=steps, repeat=1),
        on_trace_ready=lambda finished: finished.export_chrome_trace(str(path)),
    ) as profiler:
        for index in range(WARM_STEPS + steps):
            if beside is not None and index >= WARM_STEPS:
                beside()
                take(SETTLE)
            take(STEP)
            # The profiler writes its trace when it is told of the last step.
            if beside is not None and index == WARM_STEPS + steps - 1:
                beside()
            profiler.step()


@contextmanager
def annotated(module: Any, cache: Any) -> Iterator[None]:
    """Annotate every call of a module's modules, and of a cache's `update`, for a while.

    Args:
        module: A `torch.nn.Module`.
        cache: A cache of transformers.
    """
    from torch.profiler import record_function

    open_calls: dict[str, list[Any]] = defaultdict(list)

    def enter(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            open_calls[name].append(record_function(MODULE + name))
            open_calls[name][-1].__enter__()

        return hook

    def leave(name: str) -> Callable[..., None]:
        return lambda *_: open_calls[name].pop().__exit__(None, None, None)

    def update(key: Any, value: Any, layer_idx: int, *arguments: Any, **named: Any) -> Any:
        with record_function(f"{MODULE}layers.{layer_idx}.{CACHE_UPDATE}"):
            return plain_update(key, value, layer_idx, *arguments, **named)

    hooks = []
    for name, part in module.named_modules():
        if name:
            hooks += [part.register_forward_pre_hook(enter(name)), part.register_forward_hook(leave(name))]
    plain_update, cache.update = cache.update, update
    try:
        yield
    finally:
        del cache.update
        for hook in hooks:
            hook.remove()
