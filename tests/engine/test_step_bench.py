"""Launch shapes are checked in whole steps before anything is timed; kernels run in Triton's interpreter."""

from dataclasses import replace

import pytest
import torch

from memfloor.engine.cuda import step_bench
from memfloor.engine.cuda.launch_shapes import AttentionShape, LaunchShapes, ProjectionShape, RowShape
from memfloor.engine.cuda.neighbours import OPS, neighbours
from memfloor.engine.cuda.step_bench import StepBench
from memfloor.floor import step_traffic
from memfloor.spec import Workload, from_hf_config, load_model

CPU = torch.device("cpu")
SPEC = from_hf_config(
    {
        "model_type": "qwen2",
        "hidden_size": 256,
        "intermediate_size": 384,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 515,
        "max_position_embeddings": 128,
    },
    "tiny",
)
SHAPES = LaunchShapes(
    qkv=RowShape(32, 1),
    attention=AttentionShape(block_s=16, max_splits=2, warps=1),
    o_proj=ProjectionShape(128, 256, 1, 1),
    gate_up=RowShape(64, 1),
    down_proj=ProjectionShape(128, 256, 2, 1),
    head=RowShape(128, 1),
)


def bench(workload):
    return StepBench(SPEC, workload, CPU, 0)


@pytest.mark.parametrize("op", OPS)
def test_neighbours_of_a_shape_are_right(op):
    workload = Workload.of(37)
    checked = bench(workload)
    assert checked.problem(SHAPES) is None
    # More lanes, so that registers hold the neighbours; the interpreter knows neither, and runs each cut once.
    wide = replace(SHAPES, **{op: replace(getattr(SHAPES, op), warps=16)})
    cuts = {str(replace(getattr(each, op), warps=1)): each for each in neighbours(wide, op, SPEC, workload)}
    assert len(cuts) > 1
    for each in list(cuts.values())[:6]:
        assert checked.problem(each) is None, each


@pytest.mark.parametrize("formats", [{"weights": "int8", "head": "int4-g128"}, {"weights": "fp8", "kv": "fp8"}])
@pytest.mark.usefixtures("exact_fp8")
def test_every_format_is_checked_against_its_own_reference(formats):
    assert bench(Workload.of(37, **formats)).problem(SHAPES) is None


@pytest.mark.parametrize("factor", [1.05, float("nan")])
def test_logits_that_are_wrong_are_told(monkeypatch, factor):
    reference = step_bench.reference_logits
    monkeypatch.setattr(step_bench, "reference_logits", lambda *args: reference(*args) * factor)
    problem = bench(Workload.of(37)).problem(SHAPES)
    assert "of their norm away from float32's, beyond 0.05" in problem


def test_a_shape_that_does_not_compile_is_told():
    problem = bench(Workload.of(37)).problem(replace(SHAPES, head=RowShape(3, 1)))
    assert "Error: " in problem


def test_steps_are_those_of_the_whole_model_where_it_fits():
    spec = SPEC.model_copy(update={"sliding_window": 8, "num_sliding_layers": 1})
    assert step_bench.cut_to_fit(spec, Workload.of(37), 2**30) == spec


@pytest.mark.parametrize(("gibibytes", "layers"), [(1, 1), (10, 11), (24, 28)])
def test_a_model_that_does_not_fit_is_cut(gibibytes, layers):
    spec = load_model("qwen2.5-7b")
    few = step_bench.cut_to_fit(spec, Workload.of(2048), gibibytes * 2**30)
    assert few.num_hidden_layers == layers
    held = step_traffic(few, Workload.of(2048)).total_bytes
    assert held <= 0.6 * gibibytes * 2**30 or layers == 1
