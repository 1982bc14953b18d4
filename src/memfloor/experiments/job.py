"""One run of one cell in this process: prepare the runtime, take the protocol's steps, describe what happened."""

import os
import platform
from collections.abc import Callable
from dataclasses import asdict

import psutil
from pydantic import BaseModel, ConfigDict

from memfloor.engine.cpu.native import allowed_cpus
from memfloor.measure.ceiling import ceiling_for, unavailable_reason
from memfloor.measure.clock import clock_for
from memfloor.measure.environment import (
    cpu_name,
    git_commit,
    huge_pages,
    package_versions,
)
from memfloor.measure.loop import Timings, take_run
from memfloor.measure.telemetry import LoadWatch, foreign_gpu_processes, read_sensors
from memfloor.record import Cell, DeviceInfo, Environment, ObservedPath, Protocol, Step
from memfloor.runtimes import DecodeRequest, system_of


class Job(BaseModel):
    """Ask a child process for one run.

    Attributes:
        cell: What is decoded and how.
        protocol: How the run is taken.
        seed: Of weights and cache.
        twin: A cell of the same operators on tensors too small to matter, to be timed after the run in its process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    protocol: Protocol
    seed: int
    twin: Cell | None = None


class Unavailable(Exception):  # noqa: N818
    """Carry the reason why a runtime cannot run a cell here."""


class Measured(BaseModel):
    """Hold what a child measured; the parent adds who asked and makes it a `Run`."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    timings: Timings
    environment: Environment
    path: ObservedPath
    steps_per_call: int = 1
    twin: tuple[Step, ...] = ()


def start_len(context_len: int, protocol: Protocol, steps_per_call: int = 1) -> int:
    """Return the cached tokens before the first step, so that the middle timed call finds `context_len` of them.

    Where the context is too short for that, the run starts with one token and ends deeper than asked.
    """
    settled = (protocol.parts - 1) // 2
    return max(1, context_len - steps_per_call * (protocol.warmup_steps + protocol.timed_steps // 2 + settled))


def do_job(job: Job, device: DeviceInfo, on_step: Callable[[Step], None], on_phase: Callable[[str], None]) -> Measured:
    """Take one run in this process, on the device that `device_info` described.

    Raises:
        Unavailable: The runtime cannot run this cell here.
        MemoryError: The model does not fit.
    """
    cell, protocol = job.cell, job.protocol
    # Before any runtime is prepared: one that binds this thread must not take the ceiling's processors away.
    cpus = allowed_cpus(cell.threads)
    runtime_class = system_of(cell)
    reason = runtime_class.unavailable_reason(cell) or unavailable_reason(cell.device)
    if reason is not None:
        raise Unavailable(reason)
    per_call = runtime_class.steps_per_call(cell)
    request = DecodeRequest(
        cell=cell,
        start_len=start_len(cell.workload.context_len, protocol, per_call),
        # The census after the last timed call takes one more.
        max_steps=per_call * (protocol.total_steps + 1),
        seed=job.seed,
        report=on_phase,
    )
    on_phase("loading")
    runtime = runtime_class(request)
    runtime.prepare()
    on_phase("reading the ceiling")
    ceiling = ceiling_for(cell.device, cpus)
    ceiling.read(1)
    on_phase("decoding")
    watch, before = LoadWatch(), read_sensors(device)
    timings = take_run(runtime.step, clock_for(cell.device), ceiling, protocol, on_step)
    environment = describe_environment(device, len(cpus), watch, before)
    twin = _take_twin(job.twin, protocol, on_phase) if job.twin else ()
    on_phase("observing the path")
    path = runtime.observed_path()
    return Measured(timings=timings, environment=environment, path=path, steps_per_call=per_call, twin=twin)


def _take_twin(cell: Cell, protocol: Protocol, on_phase: Callable[[str], None]) -> tuple[Step, ...]:
    on_phase("timing the twin")
    steps = protocol.warmup_steps + protocol.timed_steps
    runtime_class = system_of(cell)
    max_steps = steps * runtime_class.steps_per_call(cell)
    runtime = runtime_class(DecodeRequest(cell, cell.workload.context_len, max_steps, seed=0))
    runtime.prepare()
    clock = clock_for(cell.device)
    taken = [clock.time(runtime.step) for _ in range(steps)][protocol.warmup_steps :]
    return tuple(Step(phase="timed", **asdict(times)) for times in taken)


def describe_environment(
    device: DeviceInfo, threads: int, watch: LoadWatch, before: dict[str, float | str]
) -> Environment:
    """Return where this process ran, and what else went on there meanwhile.

    Args:
        device: As `device_info` described it.
        threads: Threads that the runtime was allowed.
        watch: Made before the steps.
        before: The sensors as they were read then.
    """
    gpu_processes = foreign_gpu_processes() if device.kind == "cuda" else None
    return Environment(
        device=device,
        cpu_name=cpu_name(),
        logical_cpus=psutil.cpu_count() or threads,
        host_memory_bytes=psutil.virtual_memory().total,
        kernel=platform.release(),
        python=platform.python_version(),
        packages=package_versions(),
        git_commit=git_commit(),
        huge_pages=huge_pages(),
        threads=threads,
        load_average=os.getloadavg()[0],
        foreign_load=watch.foreign_load(),
        foreign_gpu_processes=gpu_processes,
        sensors_before=before,
        sensors_after=read_sensors(device),
    )
