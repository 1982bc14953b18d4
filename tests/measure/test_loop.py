import pytest

from memfloor.measure.clock import Times
from memfloor.measure.loop import take_run
from memfloor.record import CeilingReading, Protocol


class Bench:
    """A step, a clock and a ceiling that write down in which order they are used."""

    def __init__(self, device_seconds=None):
        self.log = []
        self.device_seconds = device_seconds
        self.ticks = 0

    def step(self):
        self.log.append("step")

    def time(self, call):
        call()
        self.ticks += 1
        return Times(self.ticks * 1e-3, self.device_seconds)

    def read(self, passes, after_steps=0):
        self.log.append("ceiling")
        return CeilingReading(after_steps=after_steps, pass_bytes=64, pass_seconds=(1.0,) * passes, method="fake")


def run(protocol, bench=None, **extra):
    bench = bench or Bench()
    return take_run(bench.step, bench, bench, protocol, **extra)


def test_phases_stand_in_the_order_of_the_protocol():
    steps = run(Protocol(warmup_steps=3, timed_steps=4)).steps
    assert [step.phase for step in steps] == ["warmup"] * 3 + ["timed"] * 2 + ["settle"] + ["timed"] * 2


def test_a_settling_step_stands_between_any_two_parts():
    steps = run(Protocol(warmup_steps=1, timed_steps=7, parts=3)).steps
    timed = [["timed"] * 2, ["timed"] * 2, ["timed"] * 3]
    assert [step.phase for step in steps] == ["warmup", *timed[0], "settle", *timed[1], "settle", *timed[2]]


@pytest.mark.parametrize("parts", [1, 2, 3, 6, 7])
def test_every_part_has_a_ceiling_on_each_side_and_no_timed_step_follows_one(parts):
    protocol = Protocol(warmup_steps=2, timed_steps=7, parts=parts)
    timings = run(protocol)
    assert len(timings.ceilings) == parts + 1
    assert len(timings.steps) == protocol.total_steps
    assert "timed" not in [timings.steps[reading.after_steps].phase for reading in timings.ceilings[:-1]]


@pytest.mark.parametrize(("warmup", "timed"), [(1, 2), (1, 3), (5, 30), (2, 7)])
def test_every_step_is_kept_and_counted(warmup, timed):
    protocol = Protocol(warmup_steps=warmup, timed_steps=timed)
    bench = Bench()
    phases = [step.phase for step in run(protocol, bench).steps]
    assert bench.log.count("step") == len(phases) == protocol.total_steps
    assert {name: phases.count(name) for name in ("warmup", "timed", "settle")} == {
        "warmup": warmup,
        "timed": timed,
        "settle": 1,
    }


@pytest.mark.parametrize(("warmup", "timed"), [(1, 2), (5, 30), (2, 7)])
def test_ceilings_stand_before_between_and_after_the_timed_steps(warmup, timed):
    ceilings = run(Protocol(warmup_steps=warmup, timed_steps=timed)).ceilings
    assert [reading.after_steps for reading in ceilings] == [warmup - 1, warmup + timed // 2, warmup + timed + 1]


def test_ceilings_say_after_how_many_steps_they_were_really_taken():
    bench = Bench()
    ceilings = run(Protocol(warmup_steps=2, timed_steps=5), bench).ceilings
    places = [index for index, entry in enumerate(bench.log) if entry == "ceiling"]
    assert [bench.log[:place].count("step") for place in places] == [reading.after_steps for reading in ceilings]


def test_no_timed_step_follows_a_ceiling_directly():
    bench = Bench()
    timings = run(Protocol(warmup_steps=2, timed_steps=6), bench)
    after_ceiling = [timings.steps[reading.after_steps].phase for reading in timings.ceilings[:2]]
    assert after_ceiling == ["warmup", "settle"]


def test_a_ceiling_takes_the_passes_of_the_protocol():
    ceilings = run(Protocol(warmup_steps=1, timed_steps=2, ceiling_passes=3)).ceilings
    assert [len(reading.pass_seconds) for reading in ceilings] == [3, 3, 3]


def test_steps_keep_the_times_of_the_clock_in_order():
    steps = run(Protocol(warmup_steps=1, timed_steps=2), Bench(device_seconds=0.5)).steps
    assert [step.host_seconds for step in steps] == pytest.approx([0.001, 0.002, 0.003, 0.004])
    assert {step.device_seconds for step in steps} == {0.5}


def test_on_step_hears_each_step_right_after_it_was_taken():
    heard, bench = [], Bench()
    timings = run(
        Protocol(warmup_steps=2, timed_steps=3),
        bench,
        on_step=lambda step: heard.append((step, bench.log.count("step"))),
    )
    assert heard == [(step, index) for index, step in enumerate(timings.steps, 1)]


def test_a_step_that_fails_ends_the_run_with_its_own_error():
    bench = Bench()

    def broken():
        raise ArithmeticError("the step broke")

    with pytest.raises(ArithmeticError, match="the step broke"):
        take_run(broken, bench, bench, Protocol())
