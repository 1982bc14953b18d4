from dataclasses import replace

import pytest

from memfloor.floor import step_traffic
from memfloor.record import ObservedPath
from memfloor.report.alarms import alarm
from memfloor.report.summary import summarise


@pytest.fixture
def alarm_at(make_run, make_cell):
    """Return a function that gives the alarm of a cell whose step reaches a share of its ceiling."""

    def make(share, device="cpu", issue_share=None, sensors=None, operators=(), cache=2**10, peak_share=None, **facts):
        cell = make_cell(device=device)
        step_bytes = step_traffic(cell.spec, cell.workload).total_bytes
        run = make_run(step_seconds=(0.01,) * 3, ceiling=step_bytes / 0.01 / share, cell=cell)
        if issue_share is not None:
            steps = [step.model_copy(update={"issue_seconds": issue_share * 0.01}) for step in run.steps]
            run = run.model_copy(update={"steps": tuple(steps)})
        environment = run.environment.model_copy(
            update={
                "device": run.environment.device.model_copy(update={"last_level_cache_bytes": cache}),
                **(sensors or {}),
            }
        )
        path = ObservedPath(operators=dict.fromkeys(operators, 1), facts=facts)
        run = run.model_copy(update={"environment": environment, "path": path})
        summary = summarise([run])[0][0]
        peak = summary.ceiling_bytes_per_second.value / peak_share if peak_share else None
        return alarm(replace(summary, peak_bytes_per_second=peak))

    return make


@pytest.mark.parametrize("share", [0.11, 0.5, 1.0, 1.04])
def test_a_plausible_step_raises_no_alarm(alarm_at, share):
    assert alarm_at(share) is None


def test_a_step_beyond_its_ceiling_is_said_to_be_impossible_and_why(alarm_at):
    assert "110.0 % of what its memory delivers, which cannot be: the ceiling was read while" in alarm_at(1.1)
    assert "its bytes stay in the cache" in alarm_at(1.1, cache=2**30)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "the records do not say why"),
        ({"device": "cuda", "weights_device": "cpu"}, "its weights lie on cpu"),
        ({"weights_dtype": "torch.float32"}, "its weights are torch.float32, not torch.bfloat16"),
        ({"torch_threads": "1"}, "it ran on 1 of 2 threads"),
        ({"pool_threads": "1"}, "it ran on 1 of 2 threads"),
        (
            {"graph_breaks": "3", "recompiles_after_warm_up": "0", "cuda_graph_skips": "2"},
            "torch.compile reports 3 graph breaks and 2 CUDA graphs skipped",
        ),
        ({"operators": ["aten::_scaled_dot_product_attention_math"]}, "the unfused path"),
        ({"operators": ["aten::_scaled_dot_product_cudnn_attention"], "cache_class": "DynamicCache"}, "try sdpa=flash"),
        ({"issue_share": 0.95}, "the host launches kernels for 9.5 ms of 10 ms"),
        ({"sensors": {"sensors_after": {"throttle_reasons_mask": 5.0}}}, "held back (reasons 0x5)"),
        (
            {"sensors": {"sensors_before": {"sm_clock_hz": 1.9e9}, "sensors_after": {"sm_clock_hz": 0.9e9}}},
            "the GPU's clock fell during a run",
        ),
        (
            {"sensors": {"sensors_before": {"cpu_clock_hz": 3e9}, "sensors_after": {"cpu_clock_hz": 2e9}}},
            "the CPU's clock fell during a run",
        ),
        ({"sensors": {"foreign_load": 0.4}}, "other processes took up to 40.0 % of the host's cores"),
        ({"sensors": {"foreign_gpu_processes": 2}}, "other processes used the GPU, up to 2"),
    ],
)
def test_a_step_far_from_its_floor_names_the_likely_reason(alarm_at, given, words):
    assert alarm_at(0.04, **given).startswith("it is at 4.0 % of its floor: ")
    assert words in alarm_at(0.04, **given)


@pytest.mark.parametrize(
    "given",
    [
        {"device": "cuda", "weights_device": "cuda:0"},
        {"operators": ["aten::_scaled_dot_product_cudnn_attention"], "cache_class": "StaticCache"},
        {"issue_share": 0.5},
        {"weights_dtype": "torch.bfloat16", "torch_threads": "2", "graph_breaks": "0"},
        {"sensors": {"foreign_load": 0.05, "foreign_gpu_processes": "not supported"}},
        {"sensors": {"sensors_after": {"throttle_reasons_mask": 1.0, "sm_clock_hz": "not supported"}}},
    ],
)
def test_what_is_no_reason_is_not_given_as_one(alarm_at, given):
    assert alarm_at(0.04, **given) == "it is at 4.0 % of its floor: the records do not say why"


@pytest.mark.parametrize(
    ("delivered", "sensors", "words"),
    [
        (0.7, {}, None),
        (0.5, {}, "its ceiling is 50.0 % of what its memory should deliver: the records do not say why"),
        (0.5, {"sensors_after": {"throttle_reasons_mask": 4.0}}, "the GPU's clocks were held back (reasons 0x4)"),
    ],
)
def test_a_ceiling_far_from_the_datasheet_is_no_ceiling(alarm_at, delivered, sensors, words):
    said = alarm_at(0.8, device="cuda", sensors=sensors, peak_share=delivered)
    assert said is None if words is None else words in said
