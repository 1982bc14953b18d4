"""Trace a few steps of one cell in this process, and say what each kernel of a step is."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from memfloor.engine.cpu.native import allowed_cpus
from memfloor.experiments.job import Unavailable
from memfloor.measure.ceiling import ceiling_for
from memfloor.record import CPU_CEILING_PASSES, CeilingReading, Cell, Outputs, StepTrace, TracedKernel
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


class CeilingBeside:
    """Read the ceiling of a CPU beside traced steps: bandwidth may jump, and timed and traced steps must be matched."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self._ceiling = ceiling_for("cpu", cpus)
        self._ceiling.read(1)
        self._readings: list[CeilingReading] = []

    def read(self) -> None:
        """Take one reading, right before a step or after the last one."""
        self._readings.append(self._ceiling.read(CPU_CEILING_PASSES, after_steps=len(self._readings)))

    def pairs(self) -> list[tuple[CeilingReading, CeilingReading]]:
        """Return the readings before and after each step."""
        return list(pairwise(self._readings))


def do_trace(
    job: TraceJob, on_phase: Callable[[str], None], on_outputs: Callable[[Outputs], None] = lambda outputs: None
) -> StepTrace:
    """Trace the steps of a cell in this process, on a CPU each between two readings of the ceiling.

    Before that the outputs that are wanted are taken.

    Raises:
        Unavailable: The runtime cannot run this cell here, or no trace can see its kernels.
        UsageError: The trace does not show what was run.
    """
    cell = job.cell
    # Before any runtime is prepared: one that binds this thread must not take the ceiling's processors away.
    cpus = allowed_cpus(cell.threads)
    runtime_class = find_runtime(cell.runtime)
    reason = runtime_class.unavailable_reason(cell)
    if reason is not None:
        raise Unavailable(reason)
    # Two traces with the steps before each, and a step that settles the caches before each traced one.
    taken = job.output_steps + SETTLING_STEPS + 2 * (WARM_STEPS + job.steps) + 1
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
    beside = CeilingBeside(cpus) if cell.device == "cpu" else None
    if parts.timed_step is not None and beside is not None:
        return _clocked(parts, parts.timed_step, job, beside)
    return _profiled(runtime.step, parts, job, beside)


def _clocked(
    parts: TracedParts, timed_step: Callable[[], list[float]], job: TraceJob, beside: CeilingBeside
) -> StepTrace:
    steps = []
    for _ in range(job.steps):
        beside.read()
        # A reading has emptied the caches.
        timed_step()
        steps.append(timed_step())
    beside.read()
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
        ceilings=tuple(beside.pairs()),
        labelled="plan",
    )


def _profiled(step: Callable[[], None], parts: TracedParts, job: TraceJob, beside: CeilingBeside | None) -> StepTrace:
    import torch

    device = job.cell.device
    capture_steps(step, job.steps, device, job.path, beside.read if beside else None)
    every = cut_steps(read_trace(job.path), device)
    kept = most_common(every)
    steps = [every[place] for place in kept]
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
            "issue_seconds": [taken.issued for taken in steps if taken.issued is not None],
            "kernels": [_kernel(index, label, steps) for index, label in enumerate(labels)],
            "launches": steps[0].launches,
            "ceilings": [pair for place, pair in enumerate(beside.pairs()) if place in kept] if beside else (),
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


def most_common(steps: Sequence[TracedStep]) -> list[int]:
    """Return the places of the steps that ran the most common kernels; a library may choose others by the context."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, step in enumerate(steps):
        groups[tuple(kernel.name for kernel in step.kernels)].append(place)
    return max(groups.values(), key=len)
