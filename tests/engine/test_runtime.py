"""The engine as a runtime: what it refuses, and that it says so before anything is loaded."""

import sys

import pytest
import torch
import triton

from memfloor.engine.cuda import backend
from memfloor.engine.cuda.backend import cell_reason, library_reason, machine_reason
from memfloor.errors import UsageError
from memfloor.measure.ceiling import unavailable_reason
from memfloor.record import Cell
from memfloor.runtimes.engine import Engine
from memfloor.runtimes.protocol import DecodeRequest
from memfloor.spec import Workload, load_model


def cell(model: str = "qwen2.5-7b", batch: int = 1, weights: str = "bf16", kv: str = "bf16", **changes) -> Cell:
    workload = Workload.of(2048, batch, weights, kv)
    return Cell(spec=load_model(model), workload=workload, runtime="engine", device="cuda", **changes)


@pytest.mark.parametrize("weights", ["bf16", "int8", "fp8", "int4-g128"])
def test_a_plain_cell_is_accepted(weights):
    assert cell_reason(cell(weights=weights)) is None


@pytest.mark.parametrize(
    ("hidden", "weights", "head", "reason"),
    [
        (192, "int4-g128", None, "int4-g128 needs rows in multiples of 128 numbers, not 192"),
        (192, "bf16", "int4-g128", "int4-g128 needs rows in multiples of 128 numbers, not 192"),
        (448, "int8", "bf16", None),
        (192, "int8", "bf16", "rows of 192 numbers are too short for int8 on a GPU, which needs 384"),
        (897, "bf16", None, "bf16 needs rows in multiples of 8 numbers, not 897"),
    ],
)
def test_rows_that_a_format_cannot_pack_are_refused(hidden, weights, head, reason):
    spec = load_model("qwen2.5-0.5b").model_copy(update={"hidden_size": hidden})
    workload = Workload.of(2048, weights=weights, head=head)
    odd = cell().model_copy(update={"spec": spec, "workload": workload})
    assert cell_reason(odd) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch": 4}, "batch 4 is not 1"),
        ({"weights": "int4-g32"}, "weight format int4-g32 is not bf16, int8, fp8 or int4-g128"),
        ({"weights": "fp32"}, "weight format fp32 is not bf16, int8, fp8 or int4-g128"),
        ({"kv": "int8"}, "KV format int8 is not bf16 or fp8"),
    ],
)
def test_a_cell_beyond_the_engine_is_refused_with_its_reason(changes, reason):
    assert cell_reason(cell(**changes)) == reason


@pytest.mark.parametrize(("field", "value", "most"), [("head_dim", 512, 256), ("hidden_size", 20480, 16384)])
def test_a_model_whose_rows_or_heads_no_program_can_hold_is_refused(field, value, most):
    spec = load_model("qwen3-8b").model_copy(update={field: value})
    assert cell_reason(cell().model_copy(update={"spec": spec})) == f"{field} {value} is beyond the engine's {most}"


def test_layers_may_slide():
    spec = load_model("qwen3-8b").model_copy(update={"sliding_window": 128, "num_sliding_layers": 4})
    assert cell_reason(cell().model_copy(update={"spec": spec})) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_the_reason_is_said():
    assert Engine.unavailable_reason(cell()) == "no CUDA GPU is visible to torch; the engine's Triton kernels need one"


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that lets torch see a GPU of a compute capability and of some free memory."""

    def see(capability=(9, 0), free_bytes=10**10, total_bytes=24 * 10**9):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_bytes, total_bytes))

    return see


def test_a_gpu_without_bf16_is_refused_and_the_oldest_with_it_is_not(gpu):
    gpu((7, 5))
    assert Engine.unavailable_reason(cell()) == "the GPU's compute capability 7.5 is below 8.0, the first with bf16"
    gpu((8, 0))
    assert Engine.unavailable_reason(cell()) is None


def test_dependent_launch_is_refused_where_the_gpu_lacks_it(gpu):
    asked = cell(options={"pdl": "preload"})
    gpu((8, 9))
    assert Engine.unavailable_reason(asked) == "pdl=preload needs compute capability 9.0"
    gpu((9, 0))
    assert Engine.unavailable_reason(asked) is None


def test_an_fp8_cache_is_refused_where_the_gpu_cannot_convert_it(gpu):
    asked = cell(kv="fp8")
    gpu((8, 0))
    assert Engine.unavailable_reason(asked) == "an fp8 KV cache needs compute capability 8.9"
    gpu((8, 9))
    assert Engine.unavailable_reason(asked) is None


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("3.5.1", "triton 3.5.1 is older than 3.6; pip install 'triton>=3.6'"),
        ("2.10.0", "triton 2.10.0 is older than 3.6; pip install 'triton>=3.6'"),
        ("3.6.0", None),
        ("3.10.0+git1a2b3c", None),
        ("4.0", None),
    ],
)
def test_a_triton_that_is_too_old_is_refused_with_its_remedy(monkeypatch, gpu, version, reason):
    gpu()
    monkeypatch.setattr(triton, "__version__", version)
    assert machine_reason() == reason
    assert unavailable_reason("cuda") == reason


@pytest.mark.parametrize("name", ["torch", "triton"])
def test_a_missing_library_is_named_with_the_install_line(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    assert library_reason() == f"{name} is not installed; pip install 'memfloor[torch]' triton"


def test_a_library_that_cannot_be_imported_is_not_called_missing(monkeypatch, tmp_path):
    (tmp_path / "triton.py").write_text("raise ImportError('libcuda.so.1 is missing', name='triton')")
    monkeypatch.delitem(sys.modules, "triton")
    monkeypatch.syspath_prepend(tmp_path)
    reason = library_reason()
    assert reason == "triton is installed and cannot be imported: libcuda.so.1 is missing; reinstall torch and triton"


def test_a_model_beyond_the_gpu_is_refused_with_the_sizes_before_it_is_loaded(monkeypatch, gpu):
    gpu(free_bytes=10**10)
    monkeypatch.setattr(backend, "build", lambda *arguments: pytest.fail("loaded"))
    words = (
        r"qwen2\.5-7b needs 15\.35 GB for weights and KV cache and 3 GB beside them; "
        r"10 GB is free on this cuda device, of 24 GB that it has"
    )
    with pytest.raises(MemoryError, match=words):
        Engine(DecodeRequest(cell(), 2048, 30)).prepare()


def test_a_step_before_prepare_is_refused():
    with pytest.raises(UsageError, match="prepare the runtime"):
        Engine(DecodeRequest(cell(), 2048, 30)).step()
