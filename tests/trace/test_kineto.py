import gzip
import json

import pytest

from memfloor.errors import UsageError
from memfloor.trace.kineto import read_trace


def test_spans_are_in_seconds_from_the_first_and_by_start(write_trace, events):
    event, step, launched = events
    path = write_trace([*launched("k", 30, 40, 5, 9), event("cpu_op", "aten::mm", 20, 15), step(10, 50)])
    spans = read_trace(path)
    assert [span.category for span in spans] == ["annotation", "op", "launch", "kernel"]
    assert [span.start for span in spans] == pytest.approx([0, 10e-6, 20e-6, 30e-6])
    kernel = spans[-1]
    assert (kernel.name, kernel.lane, kernel.correlation) == ("k", 7, 9)
    assert kernel.end == pytest.approx(35e-6)


def test_what_has_no_duration_or_another_category_is_left_out(write_trace, events):
    event, step, _ = events
    path = write_trace(
        [step(0, 1), event("ac2g", "arrow", 0, 1), {"ph": "M", "name": "process_name"}, {"ph": "i", "cat": "cpu_op"}]
    )
    assert len(read_trace(path)) == 1


@pytest.mark.parametrize(
    ("eager", "captured", "name"),
    [
        ("Memset (Device)", "Memset (Unknown)", "Memset"),
        ("Memcpy DtoD (Device -> Device)", "memcpy32_post", "Memcpy DtoD"),
        ("Memcpy DtoD (Device -> Device)", "memcpy_post_faster", "Memcpy DtoD"),
        ("memcpy_kernel", "memcpy_kernel", "memcpy_kernel"),
    ],
)
def test_setting_and_copying_memory_have_one_name_in_a_graph_and_out_of_it(write_trace, events, eager, captured, name):
    event, step, _ = events
    both = [event("gpu_memset", given, 5, 1, tid=7, correlation=1, stream=7) for given in (eager, captured)]
    assert [span.name for span in read_trace(write_trace([step(0, 50), *both]))[1:]] == [name, name]


def test_a_gzipped_trace_reads_the_same(write_trace, events, tmp_path):
    _, step, launched = events
    path = write_trace([step(0, 50), *launched("k", 3, 8, 5, 1)])
    packed = tmp_path / "trace.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_trace(packed) == read_trace(path)


def test_a_gzipped_trace_that_is_cut_short_is_refused(write_trace, events, tmp_path):
    path = write_trace([events[1](0, 50)] * 100)
    packed = tmp_path / "trace.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes())[:-20])
    with pytest.raises(UsageError, match="not a whole JSON trace"):
        read_trace(packed)


def test_a_gzipped_trace_with_a_flipped_bit_is_refused(write_trace, events, tmp_path):
    packed = bytearray(gzip.compress(write_trace([events[1](n, 50) for n in range(100)]).read_bytes()))
    packed[len(packed) // 2] ^= 0xFF
    path = tmp_path / "trace.json.gz"
    path.write_bytes(packed)
    with pytest.raises(UsageError):
        read_trace(path)


def test_a_trace_of_another_schema_is_refused(tmp_path):
    path = tmp_path / "trace.json"
    path.write_text('{"schemaVersion": 2, "traceEvents": []}')
    with pytest.raises(UsageError, match="schemaVersion 2; allowed: 1"):
        read_trace(path)


def test_a_trace_far_larger_than_what_matters_in_it_is_read_as_a_stream(write_trace, events):
    import tracemalloc

    event, step, _ = events
    path = write_trace([step(0, 50), *[event("python_function", "f" * 200, n, 1) for n in range(40_000)]])
    tracemalloc.start()
    assert len(read_trace(path)) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4


@pytest.mark.parametrize("text", ['{"traceEvents": [{"ph": "X", "cat"', "no json", ""])
def test_a_file_that_is_cut_short_or_no_json_is_refused(tmp_path, text):
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="not a whole JSON trace"):
        read_trace(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not a whole JSON trace"):
        read_trace(tmp_path / "none.json")


@pytest.mark.parametrize("content", [{"traceEvents": []}, {"spans": [1]}, []])
def test_another_tools_file_is_refused(tmp_path, content):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"no event of torch\.profiler"):
        read_trace(path)


@pytest.mark.parametrize(
    "broken",
    [
        {"ph": "X", "cat": "kernel", "name": "k", "ts": 1, "dur": 1, "tid": 7, "args": {}},
        {"ph": "X", "cat": "cpu_op", "name": "op", "ts": 1, "tid": 7},
        {"ph": "X", "cat": "cpu_op", "name": "op", "ts": "soon", "dur": 1, "tid": 7},
        {"cat": "cpu_op"},
        {"ph": "X", "cat": "cpu_op", "name": "op", "ts": 1, "dur": -1, "tid": 7},
        {"ph": "X", "cat": "cpu_op", "name": "op", "ts": "inf", "dur": 1, "tid": 7},
        {"ph": "X", "cat": "cpu_op", "name": 5, "ts": 1, "dur": 1, "tid": 7},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 1, "dur": 1, "tid": 7, "args": None},
        "no event",
    ],
)
def test_an_event_of_another_version_is_refused(write_trace, broken):
    with pytest.raises(UsageError, match="does not write"):
        read_trace(write_trace([broken]))
