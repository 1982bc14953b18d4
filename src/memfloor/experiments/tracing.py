"""Trace a few steps of one cell in this process, and say what each kernel of a step is."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from memfloor.experiments.job import Unavailable
from memfloor.record import Cell, Outputs, StepTrace, TracedKernel
from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.runtimes.protocol import TracedParts
from memfloor.trace.capture import WARM_STEPS, annotated, capture_steps
from memfloor.trace.kineto import read_trace
from memfloor.trace.labels import Label, label_by_modules, label_by_names, label_by_plan
from memfloor.trace.perfetto import write_calls
from memfloor.trace.steps import TracedStep, cut_steps

SETTLING_STEPS = 3
# Names of templates run to kilobytes.
NAME_CHARACTERS = 120
# Traces give nanoseconds; what lies beyond is noise of the sums.
DECIMALS = 10
OWN_CLOCK = "the engine's own clock"


class TraceJob(BaseModel):
    """Ask a child process for a trace.

    Attributes:
        cell: What is decoded and how.
        seed: Of weights and cache.
        steps: Steps to trace.
        path: Where the trace goes.
        output_steps: First steps, whose outputs are wanted; they are not traced.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    seed: int
    steps: int
    path: Path
    output_steps: int = 0


def do_trace(
    job: TraceJob, on_phase: Callable[[str], None], on_outputs: Callable[[Outputs], None] = lambda outputs: None
) -> StepTrace:
    """Trace the steps of a cell in this process, and before that take the outputs that are wanted.

    Raises:
        Unavailable: The runtime cannot run this cell here, or no trace can see its kernels.
        UsageError: The trace does not show what was run.
    """
    cell = job.cell
    runtime_class = find_runtime(cell.runtime)
    reason = runtime_class.unavailable_reason(cell)
    if reason is not None:
        raise Unavailable(reason)
    # Two traces, and the steps before each.
    taken = job.output_steps + SETTLING_STEPS + 2 * (WARM_STEPS + job.steps)
    request = DecodeRequest(cell, max(1, cell.workload.context_len - taken // 2), taken, job.seed, on_phase)
    on_phase("loading")
    runtime = runtime_class(request)
    runtime.prepare()
    if job.output_steps:
        on_outputs(runtime.outputs(job.output_steps))
    parts = runtime.traced_parts()
    if parts is None:
        raise Unavailable(f"no trace can see the kernels of {cell.runtime_text}")
    for _ in range(SETTLING_STEPS):
        runtime.step()
    on_phase("tracing")
    if parts.timed_step is not None:
        return _clocked(parts, parts.timed_step, job)
    return _profiled(runtime.step, parts, job)


def _clocked(parts: TracedParts, timed_step: Callable[[], list[float]], job: TraceJob) -> StepTrace:
    steps = [timed_step() for _ in range(job.steps)]
    labels = _plan_labels(len(steps[0]), parts, job.cell)
    starts = [[0.0, *accumulate(seconds)] for seconds in steps]
    kernels = tuple(
        TracedKernel(
            name=label.op,
            op=label.op,
            scope=label.scope,
            layer=label.layer,
            role=label.role,
            read_bytes=label.read_bytes,
            start_seconds=tuple(round(start[index], DECIMALS) for start in starts),
            seconds=tuple(seconds[index] for seconds in steps),
        )
        for index, label in enumerate(labels)
    )
    process = f"{job.cell.spec.name} {job.cell.runtime_text}, context {job.cell.workload.context_len}"
    write_calls(job.path, kernels, OWN_CLOCK, process)
    return StepTrace(
        tool=OWN_CLOCK,
        device="cpu",
        step_seconds=tuple(map(sum, steps)),
        kernels=kernels,
        launches={},
        labelled="plan",
    )


def _profiled(step: Callable[[], None], parts: TracedParts, job: TraceJob) -> StepTrace:
    import torch

    device = job.cell.device
    capture_steps(step, job.steps, device, job.path)
    every = cut_steps(read_trace(job.path), device)
    steps = most_common(every)
    if parts.plan is not None:
        how, labels = "plan", _plan_labels(len(steps[0].kernels), parts, job.cell)
    elif parts.module is not None and parts.eager_step is not None:
        how, labels = "modules", _module_labels(steps[0], parts, parts.eager_step, job)
    else:
        how, labels = "names", label_by_names(steps[0].kernels)
    return StepTrace.model_validate(
        {
            "tool": f"torch.profiler {torch.__version__}",
            "device": device,
            "step_seconds": [taken.seconds for taken in steps],
            "lead_seconds": [taken.lead for taken in steps],
            "kernels": [_kernel(index, label, steps) for index, label in enumerate(labels)],
            "launches": steps[0].launches,
            "other_steps": len(every) - len(steps),
            "labelled": how,
        }
    )


def _kernel(index: int, label: Label, steps: Sequence[TracedStep]) -> TracedKernel:
    same = [step.kernels[index] for step in steps]
    launches = [kernel.launch for kernel in same if kernel.launch is not None]
    return TracedKernel(
        name=same[0].name[:NAME_CHARACTERS],
        op=label.op,
        scope=label.scope,
        layer=label.layer,
        role=label.role,
        read_bytes=label.read_bytes,
        start_seconds=tuple(round(kernel.start, DECIMALS) for kernel in same),
        seconds=tuple(round(kernel.seconds, DECIMALS) for kernel in same),
        launch_seconds=tuple(round(launch, DECIMALS) for launch in launches),
    )


def _plan_labels(kernels: int, parts: TracedParts, cell: Cell) -> list[Label]:
    assert parts.plan is not None
    calls = parts.plan.calls
    return label_by_plan(
        kernels, [call.op for call in calls], [call.read_bytes for call in calls], cell.spec, cell.workload
    )


def _module_labels(step: TracedStep, parts: TracedParts, eager_step: Callable[[], None], job: TraceJob) -> list[Label]:
    beside = job.path.with_name(f"modules-{job.path.name}")
    with annotated(parts.module, parts.cache):
        capture_steps(eager_step, 1, job.cell.device, beside)
    (labelled,) = cut_steps(read_trace(beside), job.cell.device)
    beside.unlink()
    return label_by_modules(step.kernels, labelled.kernels, job.cell.spec, job.cell.workload)


def most_common(steps: Sequence[TracedStep]) -> list[TracedStep]:
    """Return the steps that ran the most common sequence of kernels; a library may choose others by the context."""
    groups: dict[tuple[str, ...], list[TracedStep]] = defaultdict(list)
    for step in steps:
        groups[tuple(kernel.name for kernel in step.kernels)].append(step)
    return max(groups.values(), key=len)
