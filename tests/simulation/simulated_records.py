"""The records that processes on a simulated machine leave, as real ones would: runs and anatomies."""

import uuid
from itertools import pairwise

import numpy as np
from simulated_machine import Process

from memfloor.record import Anatomy, DeviceInfo, Environment, ObservedPath, Run, Step, StepTrace, TracedKernel


def timed(machine, process):
    """Return the steps and ceilings of a run, in the order of the protocol."""
    steps, ceilings = [], []

    def take(phase, count):
        seconds, issued = process.steps(count)
        for place, value in enumerate(seconds):
            on_gpu = {} if issued is None else {"device_seconds": value, "issue_seconds": issued[place]}
            steps.append(Step(phase=phase, host_seconds=value, **on_gpu))

    protocol = machine.protocol
    take("warmup", protocol.warmup_steps - 1)
    ceilings.append(process.reading(len(steps)))
    take("warmup", 1)
    for part, count in enumerate(protocol.part_steps):
        if part:
            take("settle", 1)
        take("timed", count)
        ceilings.append(process.reading(len(steps)))
    return {"steps": tuple(steps), "ceilings": tuple(ceilings)}


def make_run(machine, generator, block=0, shared=1.0):
    """Return the record of one run."""
    return Run(**_identity(machine, block), **timed(machine, Process(machine, generator, shared)))


def make_anatomy(machine, generator, block=0, traced_steps=5):
    """Return the record of one anatomy: a timed process with the twin behind it, and traced ones."""
    process = Process(machine, generator)
    measured = timed(machine, process)
    twin, twin_trace = (), None
    if machine.launches == "eager":
        seconds = sum(process.host_only(30)) if machine.device == "cpu" else process.launches(30)[1]
        twin = tuple(Step(phase="timed", host_seconds=value) for value in seconds)
    if twin and machine.device == "cpu":
        twin_trace = _trace_cpu(machine, generator, traced_steps, works=False)
    take = _trace_cpu if machine.device == "cpu" else _trace_gpu
    trace = take(machine, generator, traced_steps)
    return Anatomy(**_identity(machine, block), **measured, twin=twin, trace=trace, twin_trace=twin_trace)


def _trace_gpu(machine, generator, count):
    process = Process(machine, generator)
    factor, work = generator.uniform(*machine.profiler), process.work(count)
    if machine.launches == "eager":
        launches, issued = process.launches(count, factor)
        starts = process.queue(work, launches)
    else:
        issued = factor * process.host * np.full(count, machine.before_seconds)
        launches = np.repeat(issued[:, None], work.shape[1], axis=1)
        starts = process.replay(work, issued, machine.replay_seconds)
    first = starts[:, :1]
    seconds = starts[:, -1] + work[:, -1] - first[:, 0]
    return _step_trace(machine, seconds, work, starts - first, launches - first, first[:, 0], issued)


def _trace_cpu(machine, generator, count, works=True):
    process = Process(machine, generator)
    work, readings = [], []
    for place in range(count):
        readings.append(process.reading(place))
        process.advance()
        work.append(process.work(1)[0])
    readings.append(process.reading(count))
    work = np.array(work) * works
    gaps = 0.0
    if machine.launches == "eager":
        inside, gaps = process.host_only(count, generator.uniform(*machine.profiler))
        work = work + inside[:, None] / work.shape[1]
    pairs = tuple(pairwise(readings))
    return _step_trace(machine, work.sum(axis=1) + gaps, work, np.zeros_like(work), ceilings=pairs)


def _step_trace(machine, seconds, work, starts, launches=None, lead=(), issued=(), ceilings=()):
    kernels = tuple(
        TracedKernel(
            name=f"k{place}",
            op="op",
            role=role,
            start_seconds=tuple(starts[:, place]),
            seconds=tuple(work[:, place]),
            launch_seconds=() if launches is None else tuple(launches[:, place]),
        )
        for place, role in enumerate(machine.roles)
    )
    return StepTrace(
        tool="simulated",
        device=machine.device,
        step_seconds=tuple(seconds),
        lead_seconds=tuple(lead),
        issue_seconds=tuple(issued),
        kernels=kernels,
        launches={},
        ceilings=ceilings,
        labelled="modules",
    )


def _identity(machine, block):
    return {
        "record_id": uuid.UUID(int=block).hex,
        "session_id": "0" * 32,
        "taken_at": f"2026-11-27T00:00:{block:02d}+00:00",
        "block": block,
        "cell": machine.cell,
        "protocol": machine.protocol,
        "environment": _environment(machine.device),
        "path": ObservedPath(operators={}, facts={}),
    }


def _environment(kind):
    return Environment(
        device=DeviceInfo(kind=kind, name="simulated", memory_bytes=2**36, last_level_cache_bytes=2**25, cores=2),
        cpu_name="simulated",
        logical_cpus=2,
        host_memory_bytes=2**36,
        kernel="simulated",
        python="3",
        packages={},
        git_commit=None,
        huge_pages="never",
        threads=2,
        load_average=0.0,
        foreign_load=0.0,
        sensors_before={},
        sensors_after={},
    )
