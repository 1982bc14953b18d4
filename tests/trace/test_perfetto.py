import gzip
import json

import pytest

from memfloor.errors import UsageError
from memfloor.record import TracedKernel
from memfloor.trace.perfetto import write_calls

SECONDS = {"qkv": (10e-6, 11e-6), "attention": (2.5e-6, 2e-6), "head": (100e-6, 1 / 3 * 1e-4)}


@pytest.fixture
def calls():
    return [
        TracedKernel(
            name=op,
            op=op,
            layer=None if op == "head" else 0,
            role="attention" if op == "attention" else "weights",
            read_bytes=64,
            start_seconds=(0.0, 0.0),
            seconds=seconds,
        )
        for op, seconds in SECONDS.items()
    ]


def events_of(path):
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def test_every_call_of_every_step_is_an_event_in_microseconds(calls, tmp_path):
    write_calls(tmp_path / "t.json.gz", calls, "a clock", "tiny engine")
    events = events_of(tmp_path / "t.json.gz")
    assert {(e["name"], e["args"]["name"]) for e in events if e["ph"] == "M"} == {
        ("process_name", "tiny engine"),
        ("thread_name", "a clock"),
    }
    kernels = [e for e in events if e.get("cat") == "kernel"]
    assert [(e["name"], e["ts"], e["dur"]) for e in kernels] == [
        ("qkv", 0.0, 10.0),
        ("attention", 10.0, 2.5),
        ("head", 12.5, 100.0),
        ("qkv", 112.5, 11.0),
        ("attention", 123.5, 2.0),
        ("head", 125.5, 33.333),
    ]
    assert kernels[1]["args"] == {"op": "attention", "role": "attention", "read_bytes": 64}
    assert all({"ph", "pid", "tid", "ts", "name"} <= e.keys() for e in events)


def test_steps_hold_layers_and_layers_hold_calls(calls, tmp_path):
    write_calls(tmp_path / "t.json.gz", calls, "a clock", "tiny engine")
    spans = [e for e in events_of(tmp_path / "t.json.gz") if e["ph"] == "X"]
    assert [e["name"] for e in spans[:5]] == ["memfloor.step", "layer 0", "qkv", "attention", "head"]
    open_ends = []
    for span in spans:
        start, end = round(1000 * span["ts"]), round(1000 * (span["ts"] + span["dur"]))
        while open_ends and open_ends[-1] <= start:
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1]
        open_ends.append(end)


def test_a_trace_that_cannot_be_written_is_refused(calls, tmp_path):
    with pytest.raises(UsageError, match="cannot write"):
        write_calls(tmp_path / "nowhere" / "t.json.gz", calls, "a clock", "tiny engine")
