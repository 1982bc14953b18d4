"""The anatomy of a runtime in real processes whose launches cannot cost less than they are made to.

How near the ledger and the A/B come to what the runtime's own clock recorded is a matter of a quiet machine: see
`benchmarks/known_launch.py`.
"""

import json
from pathlib import Path

import pytest

from memfloor.experiments import anatomy
from memfloor.record import Store
from memfloor.runtimes import REGISTRY

CHILDREN = Path(__file__).parent / "children"
# One product of 8 MiB a layer.
SHAPE = {"hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 8}
SHORT = ("--context", 64, "--runs", 1, "--warmup-steps", 1, "--timed-steps", 8, "--device", "cpu", "--threads", 1)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "wide"
    folder.mkdir()
    config = {
        "model_type": "qwen2",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 256,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        **SHAPE,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(autouse=True)
def known_launch(monkeypatch, python_path):
    """Register the runtime here and in every process that takes a run or a trace."""
    monkeypatch.syspath_prepend(CHILDREN)
    from known_launch import KnownLaunch

    python_path(CHILDREN)
    monkeypatch.setitem(REGISTRY, KnownLaunch.name, KnownLaunch)
    monkeypatch.setattr(anatomy, "TIMED_CHILD", "known_launch_timed")
    monkeypatch.setattr(anatomy, "TRACED_CHILD", "known_launch_traced")


def test_an_anatomy_takes_launches_for_no_less_than_they_were_made_to_cost(memfloor, model, tmp_path):
    traced = ("--runtime", "known-launch,wait=2000", "--traced-steps", 3)
    done = memfloor("anatomy", model, *traced, *SHORT, "--out", tmp_path, "--json")
    # A noisy machine may leave too much unexplained, or no steps to compare, and is then told so.
    assert done.status in (0, 3), done.err
    (taken,) = Store(tmp_path).anatomies()
    # What the ledger takes for the host's part: no step of the twin can be shorter than its waits.
    assert taken.twin
    assert all(step.seconds >= 8 * 2000e-6 for step in taken.twin)
    assert float(taken.path.facts["waited_seconds"]) >= 8 * 2000e-6
    products = [kernel for kernel in taken.trace.kernels if kernel.name == "aten::mm"]
    assert [(kernel.layer, kernel.role) for kernel in products] == [(layer, "weights") for layer in range(8)]
    assert len(taken.trace.ceilings) == len(taken.trace.step_seconds) == 3
