import json
import shutil
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "results"


def test_a_prediction_stands_beside_its_errors(memfloor):
    done = memfloor("predict", "qwen2.5-7b", "--device", "h200", "--json")
    assert done.status == 0, done.err
    answer = json.loads(done.out)
    low, high = answer["range_seconds"]
    assert answer["floor_seconds"] < low < answer["seconds"] < high
    assert {item["origin"] for item in answer["left_out"]} == {"published"}
    text = memfloor("predict", "qwen2.5-7b", "--device", "h200").out
    assert "Median error on a device left out" in text
    faster = json.loads(memfloor("predict", "qwen2.5-7b", "--device", "h200", "--bandwidth", 6000, "--json").out)
    fewer = json.loads(memfloor("predict", "qwen2.5-7b", "--device", "l4", "--weights", "int4-g128", "--json").out)
    whole = json.loads(memfloor("predict", "qwen2.5-7b", "--device", "l4", "--json").out)
    assert faster["seconds"] < answer["seconds"]
    assert fewer["seconds"] < whole["seconds"]


def test_graphs_are_set_beside_the_step_without_them(memfloor, tmp_path):
    # Committed records of two GPUs; eager steps are the published ones.
    for folder in ("h100/2026-11-27-headline", "h200/2026-11-23-grid"):
        for path in (RESULTS / folder).glob("qwen2.5-7b*hf-static-launch=graph*_run00[01]_*.json"):
            shutil.copy(path, tmp_path)
    asked = "predict", "qwen2.5-7b", "--device", "a100-80", "--records", tmp_path, "--graphs"
    answer = json.loads(memfloor(*asked, "--json").out)
    assert answer["seconds"] < answer["without_graphs"]["seconds"]
    times = answer["without_graphs"]["seconds"] / answer["seconds"]
    assert f"One graph a step would be {times:.3g} times as fast." in memfloor(*asked).out.replace("\n", " ")


def test_what_cannot_be_told_ends_with_status_3(memfloor):
    done = memfloor("predict", "qwen2.5-7b", "--device", "jetson-orin-nano")
    assert done.status == 3
    assert "cannot tell: the floor of the matrices" in done.out.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("qwen2.5-7b", "--device", "h300"), "unknown device 'h300'"),
        (("qwen2.5-7b", "--device", "h200", "--runtime", "vllm"), "cannot tell: vllm has steps of 0 cells"),
        (("qwen2.5-7b", "--device", "h200", "--bandwidth", 0), "bandwidth must be above 0"),
        (("qwen2.5-7b", "--device", "h200", "--context", 10**7), "beyond qwen2.5-7b"),
        (("qwen", "--device", "h200"), "qwen"),
        (
            ("qwen2.5-7b", "--device", "h200", "--runtime", "engine", "--graphs"),
            "unknown runtime without graphs 'engine'",
        ),
        (("qwen2.5-7b", "--device", "h200", "--records", "/no/such"), "not a folder"),
    ],
)
def test_bad_input_is_one_line(memfloor, arguments, words):
    done = memfloor("predict", *arguments)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert words in done.err
