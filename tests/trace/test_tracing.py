"""Traces of real steps of tiny models on the CPU."""

import warnings
from itertools import pairwise

import pytest

from memfloor.engine.cpu.native import unavailable_reason
from memfloor.errors import UsageError
from memfloor.experiments.anatomy import twin_cell
from memfloor.experiments.job import Unavailable
from memfloor.experiments.tracing import TraceJob, do_trace, most_common
from memfloor.floor import step_traffic
from memfloor.record import Cell
from memfloor.runtimes import REGISTRY, find_runtime
from memfloor.spec import Workload, from_hf_config, load_model
from memfloor.trace.steps import Kernel, TracedStep

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
}


@pytest.fixture
def cell():
    def make(runtime, weights="bf16", **options):
        spec = from_hf_config(CONFIG, name="tiny")
        return Cell(
            spec=spec, workload=Workload.of(32, weights=weights), runtime=runtime, options=options, device="cpu"
        )

    return make


@pytest.fixture
def traced(tmp_path):
    def take(cell, steps=3):
        job = TraceJob(cell=cell, seed=0, steps=steps, path=tmp_path / "step.trace.json.gz")
        with warnings.catch_warnings():
            # torch.profiler warns of its own clock on machines without a GPU.
            warnings.simplefilter("ignore")
            return do_trace(job, lambda phase: None)

    return take


@pytest.mark.parametrize("runtime", ["hf-eager", "hf-static"])
def test_a_trace_of_transformers_knows_every_module_and_byte(cell, traced, runtime, tmp_path):
    asked = cell(runtime)
    trace = traced(asked)
    traffic = step_traffic(asked.spec, asked.workload)
    by_role = {role: sum(k.read_bytes for k in trace.kernels if k.role == role) for role in ("weights", "attention")}
    assert by_role["weights"] == traffic.attention_weights + traffic.mlp_weights + traffic.head
    assert by_role["attention"] == traffic.kv_read
    assert {kernel.layer for kernel in trace.kernels} == {None, 0, 1, 2}
    assert len({kernel.scope for kernel in trace.kernels if kernel.role == "weights"}) == 3 * 7 + 1
    assert {"cache", "elementwise", "sampling"} < {kernel.role for kernel in trace.kernels}
    assert {kernel.layer for kernel in trace.kernels if kernel.role == "cache"} == {0, 1, 2}
    assert trace.labelled == "modules"
    assert len(trace.step_seconds) + trace.other_steps == 3
    assert len(trace.ceilings) == len(trace.step_seconds)
    for step, seconds in enumerate(trace.step_seconds):
        assert 0 < sum(kernel.seconds[step] for kernel in trace.kernels) <= seconds
    assert [path.name for path in tmp_path.iterdir()] == ["step.trace.json.gz"]


@pytest.mark.skipif(unavailable_reason() is not None, reason="no native kernels")
@pytest.mark.parametrize("options", [{}, {"launch": "eager"}])
@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_the_engines_own_clock_knows_every_operation_and_byte(cell, traced, weights, options):
    asked = cell("engine", weights, **options)
    trace = traced(asked)
    assert [kernel.op for kernel in trace.kernels[:5]] == ["qkv", "attention", "o_proj", "gate_up", "down_proj"]
    assert [kernel.layer for kernel in trace.kernels] == [0] * 5 + [1] * 5 + [2] * 5 + [None] * 2
    traffic = step_traffic(asked.spec, asked.workload)
    # The key and value of the new token, the embedding row and the vectors of norms belong to no such operation.
    read = sum(kernel.read_bytes for kernel in trace.kernels if kernel.role in ("weights", "attention"))
    matrices = traffic.attention_weights + traffic.mlp_weights + traffic.head + traffic.scales + traffic.kv_read
    assert read == matrices + traffic.norms_and_biases
    # Each step stands between two readings, and each reading between two steps.
    assert [before.after_steps for before, _ in trace.ceilings] == [0, 1, 2]
    assert all(this[1] == following[0] for this, following in pairwise(trace.ceilings))
    for step, seconds in enumerate(trace.step_seconds):
        assert sum(kernel.seconds[step] for kernel in trace.kernels) == pytest.approx(seconds)


@pytest.mark.parametrize("runtime", REGISTRY)
def test_a_twin_runs_the_operators_of_the_real_thing(cell, runtime):
    system_class = find_runtime(runtime)
    options = {"launch": "eager"} if "launch" in system_class.options else {}
    cells = [cell(runtime, weights=name, **options) for name in getattr(system_class, "formats", ("bf16",))]
    asked = next((each for each in cells if system_class.unavailable_reason(each) is None), cells[0])
    twin = twin_cell(asked)
    assert (twin is not None) == system_class.launches_one_by_one(asked)
    if twin is None or (runtime == "engine" and unavailable_reason()):
        return
    reason = system_class.unavailable_reason(asked)
    if reason is not None:
        pytest.skip(reason)
    paths = []
    for each in (asked, twin):
        system = find_runtime(runtime)(_request(each))
        system.prepare()
        system.step()
        paths.append(system.observed_path().operators)
    assert paths[0] == paths[1]


def test_the_twin_of_quantised_weights_fills_whole_groups():
    workload = Workload.of(512, weights="int4-g128")
    asked = Cell(
        spec=load_model("qwen2.5-0.5b"),
        workload=workload,
        runtime="engine",
        options={"launch": "eager"},
        device="cpu",
    )
    assert find_runtime("engine").unavailable_reason(twin_cell(asked)) == find_runtime("engine").unavailable_reason()


def test_a_replay_has_no_twin(cell):
    assert twin_cell(cell("engine")) is None
    assert twin_cell(cell("hf-static", launch="graph")) is None


def test_what_no_trace_can_see_is_said(cell, traced, monkeypatch):
    monkeypatch.setattr(find_runtime("hf-eager"), "traced_parts", lambda self: None)
    with pytest.raises(Unavailable, match="no trace can see the kernels of hf-eager"):
        traced(cell("hf-eager"))


def test_what_cannot_run_is_said(cell, traced):
    with pytest.raises(Unavailable, match="weights"):
        traced(cell("hf-eager", "int8"))


def test_a_trace_of_another_path_than_the_plan_is_refused(cell, traced, monkeypatch):
    if unavailable_reason():
        pytest.skip("no native kernels")
    from memfloor.engine.cpu.model import CpuModel

    monkeypatch.setattr(CpuModel, "timed_step", lambda self: [1e-6] * 3)
    with pytest.raises(UsageError, match="the plan has 17 calls and the trace 3 kernels"):
        traced(cell("engine"))


def test_steps_of_the_most_common_kernels_are_kept():
    def step(*names):
        kernels = tuple(Kernel(name, 0.0, 1.0, None, (), "") for name in names)
        return TracedStep(1.0, 0.0, kernels, {})

    steps = [step("a", "b"), step("a", "c"), step("a", "b")]
    assert most_common(steps) == [0, 2]


def _request(cell):
    from memfloor.runtimes import DecodeRequest

    return DecodeRequest(cell, 16, 8)
