"""Tuning on a real device: what it keeps is what the engine then runs with, and says so."""

import json

import pytest

from memfloor.experiments.tune import take_tuning
from memfloor.record import Cell
from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.spec import Workload, load_model

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("formats", [{}, {"weights": "int8", "kv": "fp8"}])
def test_what_was_tuned_is_what_runs(monkeypatch, tmp_path, formats):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec, workload = load_model("qwen2.5-0.5b"), Workload.of(512, **formats)
    found = take_tuning(spec, workload, 0, 60.0, print)
    assert found.tried > 0
    assert found.step_seconds <= found.default_seconds
    content = json.loads(found.path.read_text())
    assert content["how"]["context_len"] == 512
    cell = Cell(spec=spec, workload=workload, runtime="engine", options={"shapes": "tuned"}, device="cuda")
    system = find_runtime("engine")(DecodeRequest(cell, start_len=500, max_steps=20, seed=1))
    system.prepare()
    facts = system.observed_path().facts
    assert facts["shapes"] == f"tuned {content['tuned_at']}"
    for op, (_, tuned) in found.changed.items():
        assert facts[f"shape_{op}"] == tuned
