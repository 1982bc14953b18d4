"""One run in this process: every runtime stands beside a ceiling read by all the processors it was given."""

import os

import pytest

from memfloor.experiments.job import Job, do_job, start_len
from memfloor.measure import ceiling
from memfloor.measure.environment import device_info
from memfloor.record import Protocol
from memfloor.runtimes import REGISTRY, find_runtime

PROTOCOL = Protocol(warmup_steps=2, timed_steps=3, parts=3)


@pytest.mark.parametrize("runtime", [name for name in REGISTRY if name != "hf-compile"])
def test_the_ceiling_has_all_processors_whatever_the_runtime_did_to_its_thread(runtime, request_for, monkeypatch):
    monkeypatch.setattr(ceiling, "MIN_BUFFER_BYTES", 2**20)
    monkeypatch.setattr(ceiling, "last_level_cache_bytes", lambda: 2**17)
    cell = request_for(runtime, weights="bf16").cell
    reason = find_runtime(runtime).unavailable_reason(cell)
    if reason is not None:
        pytest.skip(reason)
    cpus = os.sched_getaffinity(0)
    measured = do_job(
        Job(cell=cell, protocol=PROTOCOL, seed=0), device_info("cpu"), lambda step: None, lambda phase: None
    )
    assert {reading.method.endswith(f"prefetch, {len(cpus)} threads") for reading in measured.timings.ceilings} == {
        True
    }
    assert measured.environment.threads == len(cpus)
    assert os.sched_getaffinity(0) == cpus


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (Protocol(warmup_steps=5, timed_steps=30), 80),
        # Two settling steps stand before the middle.
        (Protocol(warmup_steps=5, timed_steps=30, parts=6), 78),
        (Protocol(warmup_steps=5, timed_steps=30, parts=1), 80),
    ],
)
def test_the_middle_timed_step_finds_the_context(protocol, expected):
    assert start_len(100, protocol) == expected
    assert start_len(10, protocol) == 1


def test_the_middle_of_calls_that_take_several_steps_finds_the_context():
    assert start_len(1000, Protocol(warmup_steps=5, timed_steps=30), steps_per_call=8) == 1000 - 8 * 20


@pytest.mark.parametrize("launch", ["eager", "graph"])
def test_calls_of_several_steps_fill_as_many_slots_and_are_recorded_as_such(launch, request_for, monkeypatch):
    monkeypatch.setattr(ceiling, "MIN_BUFFER_BYTES", 2**20)
    monkeypatch.setattr(ceiling, "last_level_cache_bytes", lambda: 2**17)
    cell = request_for("engine", weights="bf16", start_len=62, options={"launch": launch, "steps": "4"}).cell
    reason = find_runtime("engine").unavailable_reason(cell)
    if reason is not None:
        pytest.skip(reason)
    job = Job(cell=cell, protocol=PROTOCOL, seed=0)
    measured = do_job(job, device_info("cpu"), lambda step: None, lambda phase: None)
    assert measured.steps_per_call == 4
    # Two warm, three timed and two settling calls, and one for the path, from a start of 64 - 4 * (2 + 1 + 1) on.
    assert measured.path.facts["max_len"] == str(48 + 4 * 8)
    assert len(measured.timings.steps) == PROTOCOL.total_steps
