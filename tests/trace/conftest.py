import json

import pytest


@pytest.fixture
def write_trace(tmp_path):
    """Return a function that writes events as torch.profiler does and returns the file."""

    def write(events, name="trace.json"):
        path = tmp_path / name
        path.write_text(json.dumps({"schemaVersion": 1, "deviceProperties": [], "traceEvents": events}))
        return path

    return write


def event(category, name, start_us, duration_us, tid=1, **arguments):
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": 0,
        "tid": tid,
        "ts": 1e9 + start_us,
        "dur": duration_us,
        "args": arguments,
    }


def step(start_us, duration_us):
    return event("user_annotation", "memfloor.step", start_us, duration_us)


def launched(name, launch_us, start_us, duration_us, correlation, stream=7):
    """Return a launch of 2 us and the kernel it launched."""
    return [
        event("cuda_runtime", "cudaLaunchKernel", launch_us, 2, correlation=correlation),
        event("kernel", name, start_us, duration_us, tid=stream, correlation=correlation, stream=stream),
    ]


@pytest.fixture
def events():
    """Return the makers of events."""
    return event, step, launched
