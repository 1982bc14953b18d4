import psutil
import pytest

from memfloor.floor import step_traffic
from memfloor.runtimes import memory
from memfloor.runtimes.memory import RESERVE_BYTES, free_bytes, require_memory, required_bytes


@pytest.fixture
def cell(request_for):
    return request_for(weights="bf16").cell


def test_required_are_all_parameters_and_the_cache(cell):
    assert required_bytes(cell) == step_traffic(cell.spec, cell.workload, "paper").total_bytes


def test_a_model_that_does_not_fit_is_refused_with_both_sizes(monkeypatch, cell):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1_000_000_000)
    with pytest.raises(MemoryError, match=r"tiny-qwen2 needs .* kB for weights and KV cache and 1\.5 GB beside them; "):
        require_memory(cell)
    with pytest.raises(MemoryError, match="1 GB is free on this cpu device"):
        require_memory(cell)


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_the_limit_is_weights_cache_and_reserve(monkeypatch, cell, spare, fits):
    limit = required_bytes(cell) + int(RESERVE_BYTES) + spare
    monkeypatch.setattr(memory, "free_bytes", lambda device: limit)
    if fits:
        require_memory(cell)
    else:
        with pytest.raises(MemoryError):
            require_memory(cell)


@pytest.mark.parametrize("runtime", ["hf-eager", "hf-static"])
def test_a_runtime_asks_for_memory_before_it_builds_anything(monkeypatch, request_for, runtime):
    from memfloor.runtimes import find_runtime

    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    system = find_runtime(runtime)(request_for(runtime))
    with pytest.raises(MemoryError):
        system.prepare()
    assert system.model is None


def test_free_memory_of_a_cpu_is_less_than_all_of_it():
    assert 0 < free_bytes("cpu") <= psutil.virtual_memory().total
