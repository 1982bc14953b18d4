"""A model that is known is found again, beyond what was seen nothing is told, and the published cells meet the bar."""

from dataclasses import replace
from statistics import median

import pytest

from memfloor.errors import UsageError
from memfloor.hardware import find_device
from memfloor.report.prediction import observations, point, predict
from memfloor.report.prediction_section import prediction_section, predictions_of
from memfloor.report.step_model import Fit, fit_model, leave_devices_out
from memfloor.report.summary import summarise
from memfloor.spec import Workload, load_model

TRUE = Fit(layer_seconds=2e-4, bandwidth_share=0.8, kv_times=5.0)


def seen_of(device, context=2048, model="qwen2.5-7b", fit=TRUE):
    at = point(load_model(model), Workload.of(context), device, find_device(device).peak_bytes_per_second)
    return replace(at, step_seconds=fit.seconds(at), origin="measured")


@pytest.fixture
def seen():
    return [seen_of(device, context) for device in ("h100-sxm5", "l40s", "l4") for context in (2048, 16384)]


def test_a_known_model_is_found_again_and_tells_a_device_left_out(seen):
    found = fit_model(seen)
    assert found.layer_seconds == pytest.approx(2e-4, rel=1e-3)
    assert found.bandwidth_share == pytest.approx(0.8, rel=1e-3)
    assert found.kv_times == pytest.approx(5.0, rel=1e-2)
    assert all(abs(item.error) < 1e-3 for item in leave_devices_out(seen))
    result = predict(seen, replace(seen_of("a100-80"), step_seconds=0.0), "test")
    assert result.seconds == pytest.approx(seen_of("a100-80").step_seconds, rel=1e-3)
    low, high = result.range_seconds
    assert low <= result.seconds <= high


def test_an_odd_device_shows_in_the_errors_and_widens_the_range(seen):
    odd = [replace(item, step_seconds=item.step_seconds * (1.5 if item.device == "l4" else 1.0)) for item in seen]
    result = predict(odd, seen_of("a100-80"), "test")
    errors = {item.observation.device: item.error for item in result.left_out}
    assert errors["l4"] < -0.2
    assert result.range_seconds[1] > 1.2 * result.seconds
    assert result.to_json()["left_out_median_error"] == result.median_error


@pytest.mark.parametrize(
    ("device", "context", "model", "words"),
    [
        ("jetson-orin-nano", 2048, "qwen2.5-7b", "the floor of the matrices"),
        ("h100-sxm5", 512, "qwen2.5-7b", "the context, 512 tokens"),
        ("h100-sxm5", 2048, "qwen2.5-0.5b", "the floor of the matrices"),
    ],
)
def test_beyond_what_was_seen_it_cannot_tell(seen, device, context, model, words):
    result = predict(seen, seen_of(device, context, model), "test")
    assert result.seconds is None
    assert words in result.refusal
    assert result.to_json()["range_seconds"] is None


def test_one_device_tells_nothing(seen):
    with pytest.raises(UsageError, match="3 on 2 are needed"):
        predict([item for item in seen if item.device == "l4"], seen[0], "test")
    with pytest.raises(UsageError, match="none"):
        predict([], seen[0], "test")


def test_leave_one_device_out_over_the_published_cells_errs_by_less_than_15_percent():
    found = leave_devices_out(observations("hf-eager", []))
    assert len(found) == 13
    assert median(abs(item.error) for item in found) <= 0.15


def test_records_of_the_runtime_count_and_replace_published_steps_of_their_device(make_run, make_cell):
    cell = make_cell().model_copy(update={"spec": load_model("qwen2.5-7b"), "workload": Workload.of(2048)})
    batched = cell.model_copy(update={"workload": Workload.of(2048, batch=2)})
    other = cell.model_copy(update={"runtime": "engine"})
    names = ("NVIDIA L4", "Some CPU")
    runs = [make_run(device_name=name, cell=item) for item in (cell, batched, other) for name in names]
    found = observations("hf-eager", summarise(runs)[0])
    assert sorted(item.device for item in found if item.origin == "measured") == ["Some CPU", "l4"]
    # The study has two cells of an L4.
    assert len(found) == 2 + 13 - 2
    assert [item.origin for item in observations("engine", summarise(runs)[0])] == ["measured"] * 2


def test_the_page_shows_what_is_left_out_and_where_it_cannot_tell(make_run, make_cell):
    devices = {"NVIDIA H200": 4.8e12, "NVIDIA L4": 3e11}
    runs = []
    for context in (2048, 8192):
        cell = make_cell(context).model_copy(update={"spec": load_model("qwen2.5-7b"), "runtime": "engine"})
        for name, peak in devices.items():
            at = point(cell.spec, cell.workload, name, peak)
            runs.append(make_run((TRUE.seconds(at),) * 3, cell=cell, device_name=name))
    page = prediction_section(summarise(runs)[0])
    for words in ("<h3>engine</h3>", "4 cells", "h200, qwen2.5-7b 2048", "a100-80", "cannot tell"):
        assert words in page
    # Within twice of what was seen on an H200 and an L4 lies an H100, and not a Jetson.
    (found,) = predictions_of(summarise(runs)[0])
    expected = {item.at.device: item.seconds for item in found.elsewhere}
    peak = find_device("h100-sxm5").peak_bytes_per_second
    assert expected["h100-sxm5"] == pytest.approx(
        TRUE.seconds(point(found.cell.spec, found.cell.workload, "h100-sxm5", peak)), rel=0.05
    )
    assert not {"h200", "l4"} & expected.keys()
    assert prediction_section(summarise(runs[:1])[0]) == ""
