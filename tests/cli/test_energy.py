"""Energy runs in real processes with a real runtime, whose sensor is a clock, and without one."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from memfloor.experiments import energy, energy_job
from memfloor.experiments.energy import EnergyPlan, take_energy
from memfloor.experiments.energy_job import EnergyJob, decode_request, do_energy
from memfloor.experiments.job import Unavailable
from memfloor.experiments.study import grid
from memfloor.measure.environment import device_info
from memfloor.record import EnergyProtocol, EnergySensor, Store

CHILDREN = Path(__file__).parent / "children"
SHORT = EnergyProtocol(seconds=0.4, idle_seconds=0.2, settle_seconds=0.0, warm_seconds=0.0, span_steps=16)


@pytest.fixture
def with_child(monkeypatch, python_path):
    """Return a function that lets energy runs be taken by one of the children in `children/`."""

    def use(module):
        python_path(CHILDREN)
        monkeypatch.setattr(energy, "ENERGY_CHILD", module)

    return use


def test_a_run_decodes_about_its_context_and_says_all_it_did(with_child, tiny_model, tmp_path):
    with_child("energy_by_clock")
    cells = grid([tiny_model], [64], [("engine", {"steps": "2"}), ("hf-eager", {})], "cpu", threads=1)
    store = Store(tmp_path)
    store.open_for_writing()
    taken = list(take_energy(EnergyPlan(cells, 1, SHORT), store))
    assert {run.record_id for run in store.contents().energy_runs} == {run.record_id for run in taken}
    assert {run.cell.key for run in taken} == {cell.key for cell in cells}
    for run in taken:
        found = run.measured
        assert found is not None, run.problem
        assert min(found.watts, found.idle_watts) > 0
        assert found.decoding.seconds >= 0.4
        assert found.start_len == 64 - 8
        low, high = found.depths
        assert low == 56
        assert high < 56 + 16
        assert found.steps == found.calls * (2 if run.cell.runtime == "engine" else 1)
        assert found.rewinds == (found.calls - 1) // found.span_calls
        assert found.sensor.name == "a clock"
        assert found.path.operators


def test_without_a_sensor_its_reason_is_on_record_and_the_status_is_that_of_nothing_measured(
    memfloor, with_child, tiny_model, tmp_path
):
    with_child("energy_without_sensor")
    arguments = (tiny_model, "--context", 64, "--device", "cpu", "--threads", 1, "--runs", 3, "--out", tmp_path)
    done = memfloor("energy", *arguments, "--json")
    assert done.status == 1
    assert "no cell gave its energy" in done.err
    reason = "no energy sensor answers: RAPL: Permission denied"
    assert json.loads(done.out)["problem"] == reason
    # Another run would say the same.
    (run,) = Store(tmp_path).contents().energy_runs
    assert (run.problem, run.device.kind) == (reason, "cpu")
    assert Store(tmp_path).contents().runs == []
    assert reason in memfloor("runs", tmp_path, "--kind", "energy").out
    assert memfloor("report", tmp_path, "--out", tmp_path / "report.html").status == 0
    assert reason in (tmp_path / "report.html").read_text()
    told = memfloor("query", tmp_path, "SELECT reason FROM energy", "--json")
    assert json.loads(told.out) == [{"reason": reason}]


def test_a_window_too_short_for_the_sensor_says_what_it_takes_before_anything_is_loaded(monkeypatch, tiny_model):
    sensor = EnergySensor(name="it", covers="all", quantity="watts", period_seconds=1.0, period_source="documented")
    monkeypatch.setattr(energy_job, "open_meter", lambda device: SimpleNamespace(sensor=sensor))
    (cell,) = grid([tiny_model], [64], [("hf-eager", {})], "cpu")
    job = EnergyJob(cell=cell, protocol=EnergyProtocol(idle_seconds=9.0), seed=0)
    phases = []
    with pytest.raises(Unavailable, match="a window of 9 s is shorter than 10 periods of it, which are 10 s"):
        do_energy(job, device_info("cpu"), phases.append)
    assert phases == ["looking for an energy sensor"]


@pytest.mark.parametrize(
    ("context", "span_steps", "steps_per_call", "expected"),
    [
        # Half of the span lies before the context.
        (2048, 256, 1, (1920, 257, 256)),
        (2048, 256, 16, (1920, 272, 16)),
        # No more steps than the context has tokens.
        (64, 256, 1, (32, 65, 64)),
        (1, 256, 1, (1, 2, 1)),
        (8, 256, 16, (1, 32, 1)),
    ],
)
def test_a_span_lies_about_the_context(tiny_model, context, span_steps, steps_per_call, expected):
    (cell,) = grid([tiny_model], [context], [("engine", {})], "cpu")
    job = EnergyJob(cell=cell, protocol=EnergyProtocol(span_steps=span_steps), seed=0)
    request, calls = decode_request(job, steps_per_call)
    assert (request.start_len, request.max_steps, calls) == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seconds", 0), "seconds must be above zero and finite, not 0"),
        (("--seconds", "nan"), "seconds must be above zero and finite, not nan"),
        (("--idle-seconds", -1), "idle-seconds must be above zero and finite, not -1"),
        (("--seconds", "soon"), "soon"),
        (("--timed-steps", 10), "times no steps"),
        (("--seconds", 1000), "the windows take 1016 s, and time-limit-seconds ends a run after 900 s"),
        (("--runs", 0), "runs must be 1 or more, not 0"),
        (("--runtime", "vllm"), "unknown runtime 'vllm'"),
        (("--context", "64,2q"), "unknown unit 'q'"),
        (("--device", "tpu"), "unknown device 'tpu'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_taken(memfloor, tiny_model, tmp_path, arguments, words):
    device = () if "--device" in arguments else ("--device", "cpu")
    done = memfloor("energy", tiny_model, *device, "--out", tmp_path / "out", *arguments)
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert words in done.err
    assert not (tmp_path / "out").exists()
