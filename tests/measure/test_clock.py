import sys
from types import SimpleNamespace

import pytest

from memfloor.measure import clock


@pytest.fixture
def log(monkeypatch):
    """Replace the host clock by one that advances a microsecond per look, and return what was looked at when."""
    entries = []

    def perf_counter_ns():
        entries.append("look")
        return 1000 * entries.count("look")

    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter_ns=perf_counter_ns))
    return entries


@pytest.fixture
def fake_cuda(monkeypatch, log):
    class Event:
        made = 0

        def __init__(self, enable_timing):
            assert enable_timing
            Event.made += 1
            self.name = "start" if Event.made == 1 else "end"

        def record(self):
            log.append(f"record {self.name}")

        def synchronize(self):
            log.append(f"wait for {self.name}")

        def elapsed_time(self, end):
            assert (self.name, end.name) == ("start", "end")
            return 12.5

    cuda = SimpleNamespace(Event=Event, synchronize=lambda: log.append("synchronize"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))


def test_the_host_clock_times_the_call_and_nothing_else(log):
    assert clock.HostClock().time(lambda: log.append("call")) == clock.Times(pytest.approx(1e-6), None, None)
    assert log == ["look", "call", "look"]


@pytest.mark.usefixtures("fake_cuda")
def test_the_cuda_clock_synchronises_before_and_waits_for_the_end_event(log):
    clock.CudaClock().time(lambda: log.append("call"))
    assert log == ["synchronize", "look", "record start", "call", "look", "record end", "wait for end", "look"]


@pytest.mark.usefixtures("fake_cuda", "log")
def test_the_cuda_clock_gives_seconds_of_both_clocks():
    times = clock.CudaClock().time(lambda: None)
    assert times.issue_seconds == pytest.approx(1e-6)
    assert times.host_seconds == pytest.approx(2e-6)
    assert times.device_seconds == pytest.approx(0.0125)


@pytest.mark.usefixtures("fake_cuda")
def test_each_kind_of_device_has_its_clock():
    assert isinstance(clock.clock_for("cpu"), clock.HostClock)
    assert isinstance(clock.clock_for("cuda"), clock.CudaClock)
