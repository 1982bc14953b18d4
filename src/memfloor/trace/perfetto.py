"""Write the steps of a plan, timed call by call, as a trace file that Perfetto and chrome://tracing open.

The format is Chrome's trace-event JSON: complete events ("X") with times in microseconds, nested by time on one track,
and metadata events ("M") that name the process and the track.
Source: "Trace Event Format", the Chromium project.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import Any

from memfloor.errors import UsageError
from memfloor.record import TracedKernel
from memfloor.trace.steps import STEP

PID, TID = 1, 1
NANOSECONDS = 1e9
NANOSECONDS_PER_MICROSECOND = 1000


def write_calls(path: Path, kernels: Sequence[TracedKernel], tool: str, process: str) -> None:
    """Write a gzipped trace of steps whose calls follow each other without a gap.

    Args:
        path: Where the trace goes.
        kernels: The calls of a step in order, with their seconds in every step.
        tool: What took the times.
        process: What ran, as Perfetto names the track's process.

    Raises:
        UsageError: The file cannot be written.
    """
    trace = {"displayTimeUnit": "ms", "otherData": {"tool": tool}, "traceEvents": list(_events(kernels, tool, process))}
    try:
        with gzip.open(path, "wt", encoding="utf-8") as file:
            json.dump(trace, file, separators=(",", ":"))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def _events(kernels: Sequence[TracedKernel], tool: str, process: str) -> Iterator[dict[str, Any]]:
    for name, text in (("process_name", process), ("thread_name", tool)):
        yield {"ph": "M", "name": name, "pid": PID, "tid": TID, "ts": 0, "args": {"name": text}}
    begin = 0
    for step in range(len(kernels[0].seconds)):
        # In whole nanoseconds: a call that ended after its step by rounding would not be drawn inside it.
        times = [round(NANOSECONDS * time) for time in accumulate((k.seconds[step] for k in kernels), initial=0.0)]
        yield from _step_events(kernels, [begin + time for time in times], step)
        begin += times[-1]


def _step_events(kernels: Sequence[TracedKernel], times: Sequence[int], step: int) -> Iterator[dict[str, Any]]:
    yield _span(STEP, "step", times[0], times[-1], {"step": step})
    calls = zip(kernels, pairwise(times), strict=True)
    for layer, members in groupby(calls, key=lambda call: call[0].layer):
        inside = list(members)
        if layer is not None:
            yield _span(f"layer {layer}", "layer", inside[0][1][0], inside[-1][1][1], {"layer": layer})
        for kernel, (start, end) in inside:
            arguments = {"op": kernel.op, "role": kernel.role, "read_bytes": kernel.read_bytes}
            yield _span(kernel.name, "kernel", start, end, arguments)


def _span(name: str, category: str, start: int, end: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": PID,
        "tid": TID,
        "ts": start / NANOSECONDS_PER_MICROSECOND,
        "dur": (end - start) / NANOSECONDS_PER_MICROSECOND,
        "args": arguments,
    }
