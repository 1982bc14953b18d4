from types import SimpleNamespace

import pytest

from memfloor.measure import clock, pace
from memfloor.measure.clock import HostClock
from memfloor.measure.pace import Pace, Work, take_cycles
from memfloor.record import Cycles

MILLI = 1_000_000


class Bench:
    """A machine whose time passes only in its work, in its facts and asleep, in nanoseconds; it says in which order."""

    def __init__(self, busy, facts_take=0, wakes_late=0):
        self.now = 5 * MILLI
        self.busy = list(busy)
        self.facts_take, self.wakes_late = facts_take, wakes_late
        self.log = []
        self.silent = {"sm_clock_hz": "not supported"}

    def perf_counter_ns(self):
        return self.now

    def sleep(self, seconds):
        self.now += round(seconds * 1e9) + self.wakes_late

    def work(self, prefills=False):
        return Work(None if prefills else self.note("rewind"), self.note("prefill") if prefills else None, self.decode)

    def note(self, what):
        return lambda: self.log.append(what)

    def decode(self):
        self.log.append("decode")
        self.now += self.busy.pop(0) * MILLI

    def begin(self):
        self.log.append("begin")

    def end(self):
        self.log.append("end")
        self.now += self.facts_take
        return {"minor_faults": float(len(self.log))} | ({"flaky": 1.0} if len(self.log) < 9 else {})


@pytest.fixture
def loop(monkeypatch):
    """Return a function that runs a loop on a bench."""

    def run(bench, **given):
        passing = SimpleNamespace(perf_counter_ns=bench.perf_counter_ns, sleep=bench.sleep)
        for module in (pace, clock):
            monkeypatch.setattr(module, "time", passing)
        given = {"period_seconds": 0.01, "seconds": 0.05, "warmup_cycles": 0, **given}
        prefills = given.pop("prefills", False)
        return Cycles.joined(list(take_cycles(bench.work(prefills), HostClock(), bench, Pace(**given))))

    return run


def test_a_cycle_begins_at_its_tick(loop):
    cycles = loop(Bench([2] * 5))
    assert cycles.ticks == (0, 1, 2, 3, 4)
    assert cycles.late_seconds == (0.0,) * 5
    assert cycles.decode_seconds == cycles.busy_seconds == (0.002,) * 5
    assert cycles.prefill_seconds == cycles.device_decode_seconds == ()


def test_a_cycle_that_is_not_over_lets_ticks_pass(loop):
    # The second ends at 10 + 25 ms: ticks 2 and 3 have passed, 4 has not.
    assert loop(Bench([2, 25, 2])).ticks == (0, 1, 4)


def test_a_cycle_that_ends_at_a_tick_does_not_miss_it(loop):
    assert loop(Bench([10] * 5)).ticks == (0, 1, 2, 3, 4)


def test_waking_up_late_and_reading_facts_make_the_next_cycle_late_and_let_no_tick_pass(loop):
    cycles = loop(Bench([6] * 5, facts_take=5 * MILLI))
    assert cycles.ticks == (0, 1, 2, 3, 4)
    assert cycles.late_seconds == pytest.approx((0.0, 0.001, 0.002, 0.003, 0.004))
    assert loop(Bench([2] * 5, wakes_late=MILLI)).late_seconds[1:] == pytest.approx((0.001,) * 4)


def test_cycles_for_warming_up_come_before_the_time_of_the_loop(loop):
    assert len(loop(Bench([2] * 8), warmup_cycles=3).ticks) == 3 + 5
    # Long ones too: ticks that they let pass are no part of it.
    assert loop(Bench([95, 2, 2, 2, 2, 2]), warmup_cycles=1).ticks == (0, 10, 11, 12, 13, 14)


def test_a_loop_has_two_cycles_however_short_it_is(loop):
    assert loop(Bench([2] * 2), seconds=1e-9).ticks == (0, 1)


def test_without_a_pace_cycles_follow_one_another_until_they_fill_the_time(loop):
    cycles = loop(Bench([20, 20, 20]), paced=False)
    assert (cycles.ticks, cycles.late_seconds) == ((0, 1, 2), ())


def test_going_back_is_no_part_of_a_cycle_and_a_prompt_is(loop):
    bench = Bench([2] * 2)
    loop(bench, seconds=0.01)
    assert bench.log == ["rewind", "begin", "decode", "end"] * 2
    bench = Bench([2] * 2)
    cycles = loop(bench, seconds=0.01, prefills=True)
    assert bench.log == ["begin", "prefill", "decode", "end"] * 2
    assert cycles.prefill_seconds == (0.0, 0.0)


def test_a_sensor_that_falls_silent_on_the_way_has_no_column(loop):
    cycles = loop(Bench([2] * 5))
    assert set(cycles.facts) == {"minor_faults"}
    assert cycles.silent == {"sm_clock_hz": "not supported"}


@pytest.mark.parametrize(
    ("together", "seconds", "given"), [(2, 10.0, [2, 2, 1]), (100, 0.02, [3, 2]), (100, 10.0, [5])]
)
def test_cycles_are_given_away_by_number_and_by_age_and_none_twice(monkeypatch, loop, together, seconds, given):
    whole = loop(Bench([2] * 5))
    monkeypatch.setattr(pace, "MOST_TOGETHER", together)
    monkeypatch.setattr(pace, "MOST_SECONDS", seconds)
    parts = []
    monkeypatch.setattr(Cycles, "joined", classmethod(lambda cls, found: parts.extend(found)))
    loop(Bench([2] * 5))
    assert [len(part.ticks) for part in parts] == given
    monkeypatch.undo()
    assert Cycles.joined(parts).ticks == whole.ticks
