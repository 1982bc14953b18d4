"""One control loop in this process: prepare the runtime, run cycles at their pace, describe what happened."""

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict

from memfloor.engine.cpu.native import allowed_cpus
from memfloor.errors import UsageError
from memfloor.experiments.job import Unavailable, describe_environment
from memfloor.hardware import match_driver_name
from memfloor.measure.ceiling import ceiling_for, unavailable_reason
from memfloor.measure.clock import clock_for
from memfloor.measure.cycle_facts import CycleFacts
from memfloor.measure.pace import Pace, Work, take_cycles
from memfloor.measure.telemetry import LoadWatch, read_sensors
from memfloor.record import CeilingReading, Cell, DeviceInfo, Environment, ObservedPath
from memfloor.report.deadlines import Asked, below_floor, cycle_floor
from memfloor.runtimes import DecodeRequest, Prefilling, Runtime, find_runtime

CEILING_PASSES = 8


class ControlJob(BaseModel):
    """Ask a child process for one control loop.

    Attributes:
        cell: What is decoded and how; its context is the prompt.
        steps: Decode steps of a cycle.
        period_seconds: Between two ticks.
        seconds: How long the loop goes on after warming up.
        warmup_cycles: Cycles before that.
        paced: Whether a cycle waits for its tick.
        seed: Of weights and cache.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    steps: int
    period_seconds: float
    seconds: float
    warmup_cycles: int
    paced: bool
    seed: int


class LoopBegun(BaseModel):
    """Hold what is known before the first cycle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ceiling: CeilingReading
    environment: Environment


class LoopEnded(LoopBegun):
    """Hold what is known after the last cycle: the ceiling once more, and the environment over all cycles."""

    path: ObservedPath


# Told each result under its event's name: `begun` once, `cycles` again and again.
OnResult = Callable[[str, BaseModel], None]


def do_control(job: ControlJob, device: DeviceInfo, on_result: OnResult, on_phase: Callable[[str], None]) -> LoopEnded:
    """Run one control loop in this process and give its cycles away as they are taken.

    Args:
        job: What is asked.
        device: As `device_info` described it.
        on_result: Told a `LoopBegun` and then `Cycles`, between two cycles.
        on_phase: Told what is done.

    Raises:
        Unavailable: The runtime cannot run this cell here.
        UsageError: It cannot go back to the prompt, or no runtime can keep the period here.
        MemoryError: The model does not fit.
    """
    cell = job.cell
    # Before any runtime is prepared: one that binds this thread must not take the ceiling's processors away.
    cpus = allowed_cpus(cell.threads)
    runtime_class = find_runtime(cell.runtime)
    reason = runtime_class.unavailable_reason(cell) or unavailable_reason(cell.device)
    if reason is not None:
        raise Unavailable(reason)
    _refuse_below_floor(job, device, cpus)
    per_call = runtime_class.steps_per_call(cell)
    runtime = runtime_class(
        # The census takes one more call.
        DecodeRequest(cell, cell.workload.context_len, job.steps + per_call, job.seed, on_phase)
    )
    on_phase("loading")
    runtime.prepare()
    on_phase("reading the ceiling")
    ceiling = ceiling_for(cell.device, cpus)
    ceiling.read(1)
    watch = LoadWatch()
    before_loop = ceiling.read(CEILING_PASSES)
    work = work_of(runtime, job, per_call)
    environment = describe_environment(device, len(cpus), watch, read_sensors(device))
    on_result("begun", LoopBegun(ceiling=before_loop, environment=environment))
    on_phase(f"running cycles for {job.seconds:g} s")
    watch, sensors = LoadWatch(), read_sensors(device)
    pace = Pace(job.period_seconds, job.seconds, job.warmup_cycles, job.paced)
    count = 0
    for cycles in take_cycles(work, clock_for(cell.device), CycleFacts(cell.device), pace):
        on_result("cycles", cycles)
        count += len(cycles.ticks)
    environment = describe_environment(device, len(cpus), watch, sensors)
    after_loop = ceiling.read(CEILING_PASSES, after_steps=count * job.steps)
    on_phase("observing the path")
    return LoopEnded(ceiling=after_loop, environment=environment, path=runtime.observed_path())


def work_of(runtime: Runtime, job: ControlJob, steps_per_call: int) -> Work:
    """Return the work of a cycle.

    Args:
        runtime: Prepared.
        job: What is asked.
        steps_per_call: Decode steps that one call takes, a divisor of those of a cycle.

    Raises:
        UsageError: The runtime cannot take the prompt in every cycle.
    """
    name = job.cell.runtime_text
    calls = job.steps // steps_per_call

    def decode() -> None:
        for _ in range(calls):
            runtime.step()

    if not job.cell.prefill:
        return Work(runtime.rewind, None, decode)
    if not isinstance(runtime, Prefilling):
        raise UsageError(f"{name} cannot take a prompt again")
    return Work(None, runtime.prefill, decode)


def asked(cell: Cell, steps: int, period_seconds: float) -> Asked:
    """Return the loop of a cell."""
    return Asked(cell.spec, cell.workload, steps, period_seconds, cell.prefill)


def _refuse_below_floor(job: ControlJob, device: DeviceInfo, cpus: Sequence[int]) -> None:
    # A device of the catalogue has been held against its datasheet before a process was started.
    if match_driver_name(device.name) is not None:
        return
    loop = asked(job.cell, job.steps, job.period_seconds)
    # Its buffer is given back before weights are loaded.
    ceiling = ceiling_for(job.cell.device, cpus).read(CEILING_PASSES)
    if job.cell.device == "cuda":
        import torch

        torch.cuda.empty_cache()
    fastest = ceiling.pass_bytes / min(ceiling.pass_seconds)
    floor = cycle_floor(loop, device.name, fastest)
    if floor.seconds > job.period_seconds:
        raise UsageError(below_floor(loop, floor, f"the fastest read of this {device.name}"))
