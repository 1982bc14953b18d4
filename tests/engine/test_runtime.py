"""The engine as a runtime: what it refuses, and that it says so before anything is loaded."""

import pytest
import torch

from memfloor.engine.cuda.backend import cell_reason
from memfloor.errors import UsageError
from memfloor.record import Cell
from memfloor.runtimes.engine import Engine
from memfloor.runtimes.protocol import DecodeRequest
from memfloor.spec import Workload, load_model


def cell(model: str = "qwen2.5-7b", batch: int = 1, weights: str = "bf16", **changes) -> Cell:
    workload = Workload.of(2048, batch, weights)
    return Cell(spec=load_model(model), workload=workload, runtime="engine", device="cuda", **changes)


@pytest.mark.parametrize("weights", ["bf16", "int8", "fp8", "int4-g128"])
def test_a_plain_cell_is_accepted(weights):
    assert cell_reason(cell(weights=weights)) is None


@pytest.mark.parametrize(
    ("weights", "head", "reason"),
    [
        ("int4-g128", None, "int4-g128 needs rows in multiples of 128 numbers, not 192"),
        ("bf16", "int4-g128", "int4-g128 needs rows in multiples of 128 numbers, not 192"),
        ("int8", "bf16", None),
    ],
)
def test_rows_that_a_format_cannot_pack_are_refused(weights, head, reason):
    spec = load_model("qwen2.5-0.5b").model_copy(update={"hidden_size": 192})
    workload = Workload.of(2048, weights=weights, head=head)
    odd = cell().model_copy(update={"spec": spec, "workload": workload})
    assert cell_reason(odd) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch": 4}, "batch 4 is not 1"),
        ({"weights": "int4-g32"}, "weight format int4-g32 is not bf16, int8, fp8 or int4-g128"),
        ({"weights": "fp32"}, "weight format fp32 is not bf16, int8, fp8 or int4-g128"),
        ({"prefill": True}, "a real prefill is not supported"),
    ],
)
def test_a_cell_beyond_the_engine_is_refused_with_its_reason(changes, reason):
    assert cell_reason(cell(**changes)) == reason


def test_a_sliding_window_is_refused():
    spec = load_model("qwen3-8b").model_copy(update={"sliding_window": 128, "num_sliding_layers": 4})
    assert cell_reason(cell().model_copy(update={"spec": spec})) == "sliding-window attention is not supported"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_the_reason_is_said():
    assert Engine.unavailable_reason(cell()) == "no CUDA GPU is visible to torch; the engine's Triton kernels need one"


def test_a_step_before_prepare_is_refused():
    with pytest.raises(UsageError, match="prepare the runtime"):
        Engine(DecodeRequest(cell(), 2048, 30)).step()
