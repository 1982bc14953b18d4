"""`memfloor tune`: what it refuses, and what it says of what it found."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from memfloor.engine.cuda import backend
from memfloor.experiments import tune
from memfloor.experiments.tune import Tuning

FOUND = Tuning(
    device="NVIDIA H200",
    layers=4,
    changed={"qkv": ("RowShape(block_n=1, warps=4, registers=None)", "RowShape(block_n=2, warps=8, registers=None)")},
    default_seconds=1e-3,
    step_seconds=9.5e-4,
    tried=61,
    refused=("head RowShape(block_n=64, warps=1, registers=None): OutOfResources: too many registers",),
    finished=False,
    path=Path("/home/someone/.cache/memfloor/launch-shapes/NVIDIA-H200.json"),
)


@pytest.fixture
def gpu(monkeypatch):
    """Let a GPU be there as far as anybody asks before something runs on it."""
    monkeypatch.setattr(backend, "machine_reason", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: (9, 0))
    properties = SimpleNamespace(name="NVIDIA H200", multi_processor_count=132, L2_cache_size=50 * 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *device: (2**30, 141 * 10**9))


@pytest.fixture
def found(monkeypatch):
    """Return how a tuning is asked for, each of which finds the same."""
    asked = []

    def take(*arguments):
        asked.append(arguments)
        return FOUND

    monkeypatch.setattr(tune, "take_tuning", take)
    return asked


def assert_refused(result, *words):
    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1
    for word in ("memfloor: ", *words):
        assert word in result.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_nothing_can_be_tuned(memfloor):
    assert_refused(memfloor("tune", "qwen2.5-0.5b"), "nothing can be tuned here", "no CUDA GPU is visible to torch")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gpt-5"], ["unknown model 'gpt-5'"]),
        (["qwen2.5-0.5b", "--device-id", "2"], ["device-id must be 0 to 1, not 2"]),
        (["qwen2.5-0.5b", "--device-id", "-1"], ["device-id must be 0 to 1, not -1"]),
        (["qwen2.5-0.5b", "--weights", "int3"], ["unknown weight format 'int3'"]),
        (
            ["qwen2.5-0.5b", "--weights", "int4-g32"],
            ["the engine cannot decode qwen2.5-0.5b", "weight format int4-g32"],
        ),
        (["qwen2.5-0.5b", "--kv", "int8"], ["KV format int8 is not bf16 or fp8"]),
        (["qwen2.5-0.5b", "--context", "32769"], ["32769", "beyond", "1 to 32768"]),
        (["qwen2.5-0.5b", "--context", "512,2k"], ["shapes are tuned at one context, not at 2"]),
        (["qwen2.5-0.5b", "--minutes", "0"], ["minutes must be above zero and finite, not 0"]),
        (["qwen2.5-0.5b", "--minutes", "nan"], ["minutes must be above zero and finite, not nan"]),
        (["qwen2.5-7b"], ["qwen2.5-7b needs", "is free on this cuda device"]),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_a_line(memfloor, arguments, words):
    assert_refused(memfloor("tune", *arguments), *words)


def test_what_was_found_is_shown_with_where_it_is_kept(memfloor, found):
    result = memfloor("tune", "qwen2.5-7b", "--weights", "int8", "--minutes", "2.5", "--device-id", "1")
    assert result.status == 0
    for words in ("RowShape(block_n=2, warps=8", "takes 950 us with them and 1 ms by default", str(FOUND.path)):
        assert words in result.out
    assert "61 shapes were timed and 1 refused; the time was up before all were tried" in result.out
    spec, workload, device_id, limit_seconds, _ = found[0]
    assert (spec.name, workload.weights, workload.head, workload.kv) == ("qwen2.5-7b", "int8", "bf16", "bf16")
    assert (workload.context_len, device_id, limit_seconds) == (2048, 1, 150.0)


def test_it_is_given_to_programs_as_json(memfloor, found):
    result = memfloor("tune", "qwen2.5-7b", "--json")
    assert found
    content = json.loads(result.out)
    assert content["changed"]["qkv"] == list(FOUND.changed["qkv"])
    assert (content["path"], content["step_seconds"]) == (str(FOUND.path), 9.5e-4)
