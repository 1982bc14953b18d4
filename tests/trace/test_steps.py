from pathlib import Path

import pytest

from memfloor.errors import UsageError
from memfloor.trace.kineto import read_trace
from memfloor.trace.steps import cut_steps

DATA = Path(__file__).parents[1] / "data"


def test_kernels_of_a_gpu_step_with_their_operators_and_module(write_trace, events):
    event, step, launched = events
    path = write_trace(
        [
            *launched("before", 0, 5, 5, 1),
            step(20, 60),
            event("user_annotation", "memfloor.module:model.layers.3.mlp", 22, 30),
            event("user_annotation", "memfloor.module:model.layers.3.mlp.up_proj", 24, 10),
            event("cpu_op", "aten::linear", 25, 8),
            event("cpu_op", "aten::mm", 26, 6),
            *launched("product", 28, 40, 30, 2),
            event("cpu_op", "aten::mul", 40, 6),
            *launched("times", 42, 70, 3, 3),
            # Of another thread.
            event("cpu_op", "aten::noise", 20, 60, tid=2),
            *launched("argmax", 60, 80, 4, 4),
        ]
    )
    (taken,) = cut_steps(read_trace(path), "cuda")
    product, times, argmax = taken.kernels
    assert (product.ops, product.scope) == (("aten::linear", "aten::mm"), "model.layers.3.mlp.up_proj")
    assert (times.ops, times.scope) == (("aten::mul",), "model.layers.3.mlp")
    assert (argmax.ops, argmax.scope) == ((), "")
    # From the start of the first kernel at 40 us to the end of the last, which runs beyond the marker.
    assert taken.seconds == pytest.approx(44e-6)
    assert taken.lead == pytest.approx(20e-6)
    assert taken.issued == pytest.approx(60e-6)
    assert [kernel.start for kernel in taken.kernels] == pytest.approx([0, 30e-6, 40e-6])
    assert [kernel.launch for kernel in taken.kernels] == pytest.approx([-12e-6, 2e-6, 20e-6])
    assert taken.launches == {"cudaLaunchKernel": 3}


def test_a_replayed_graph_launches_all_its_kernels_at_once(write_trace, events):
    event, step, _ = events
    kernels = [event("kernel", f"k{n}", 30 + 10 * n, 8, tid=7, correlation=5, stream=7) for n in range(3)]
    path = write_trace([step(0, 20), event("cuda_runtime", "cudaGraphLaunch", 4, 9, correlation=5), *kernels])
    (taken,) = cut_steps(read_trace(path), "cuda")
    assert [kernel.name for kernel in taken.kernels] == ["k0", "k1", "k2"]
    assert [kernel.launch for kernel in taken.kernels] == pytest.approx([-26e-6] * 3)
    assert taken.seconds == pytest.approx(28e-6)


def test_a_trace_of_an_h200_has_170_overlapping_kernels_in_each_of_three_steps():
    steps = cut_steps(read_trace(DATA / "engine-graph.trace.json.gz"), "cuda")
    assert [len(step.kernels) for step in steps] == [170, 170, 170]
    # Counted by hand in the file: microseconds of the last kernel's end less the first one's start.
    assert [step.seconds * 1e6 for step in steps] == pytest.approx([3483.605, 3486.039, 3492.822], abs=0.01)
    assert sum(kernel.seconds for kernel in steps[0].kernels) * 1e6 == pytest.approx(4496.707, abs=0.01)
    assert steps[0].launches["cudaGraphLaunch"] == 1


def test_a_trace_of_transformers_on_an_h100_has_126_launched_kernels_in_each_of_three_steps():
    steps = cut_steps(read_trace(DATA / "hf-static-h100.trace.json.gz"), "cuda")
    assert [len(step.kernels) for step in steps] == [126, 126, 126]
    # By another rule: the kernels whose launch, found by its correlation, lies within the host's mark of a step.
    assert [step.seconds * 1e6 for step in steps] == pytest.approx([3339.074, 3339.234, 3242.464], abs=0.001)
    assert [step.lead * 1e6 for step in steps] == pytest.approx([153.056, 111.915, 112.624], abs=0.001)
    own = [1e6 * sum(kernel.seconds for kernel in step.kernels) for step in steps]
    assert own == pytest.approx([203.392, 203.809, 202.566], abs=0.001)
    # Products with weights, cuDNN's attention of two layers, and what the cache and RoPE join.
    counts = [sum(word in kernel.name for kernel in steps[0].kernels) for word in ("nvjet", "cudnn", "CatArray")]
    assert counts == [15, 2, 5]
    calls = ("cudaLaunchKernel", "cuLaunchKernelEx", "cuLaunchKernel", "cudaMemcpyAsync")
    assert [steps[0].launches[call] for call in calls] == [107, 17, 1, 1]


def test_a_trace_of_transformers_on_a_cpu_has_118_working_operators_in_each_of_two_steps():
    steps = cut_steps(read_trace(DATA / "hf-eager-cpu.trace.json.gz"), "cpu")
    assert [len(step.kernels) for step in steps] == [118, 118]
    # The marks in the file; steps that settle the caches stand between them.
    assert [step.seconds * 1e6 for step in steps] == pytest.approx([1177.125, 930.96])
    # Counted with another rule: each operator less those that lie in it and in nothing between.
    names = ("aten::linear", "aten::mm", "aten::addmm", "aten::cat", "aten::mul")
    own = [1e6 * sum(kernel.seconds for kernel in steps[0].kernels if kernel.name == name) for name in names]
    assert own == pytest.approx([10.637, 139.318, 14.61, 20.5, 23.052], abs=0.001)
    # Products with weights: three with a bias, four without and the head.
    assert [sum(kernel.name == name for kernel in steps[0].kernels) for name in names[:3]] == [8, 5, 3]


def test_operators_of_a_cpu_step_own_what_the_operators_they_call_do_not(write_trace, events):
    event, step, _ = events
    path = write_trace(
        [
            step(0, 100),
            event("user_annotation", "memfloor.module:lm_head", 5, 80),
            event("cpu_op", "aten::linear", 10, 60),
            event("cpu_op", "aten::t", 12, 4),
            event("cpu_op", "aten::addmm", 20, 40),
            event("cpu_op", "aten::copy_", 22, 10),
            event("cpu_op", "aten::argmax", 90, 5),
        ]
    )
    (taken,) = cut_steps(read_trace(path), "cpu")
    assert [(kernel.name, kernel.scope) for kernel in taken.kernels] == [
        ("aten::linear", "lm_head"),
        ("aten::addmm", "lm_head"),
        ("aten::copy_", "lm_head"),
        ("aten::argmax", ""),
    ]
    assert [kernel.seconds for kernel in taken.kernels] == pytest.approx([16e-6, 30e-6, 10e-6, 5e-6])
    assert taken.seconds == pytest.approx(100e-6)


def test_a_trace_without_a_marked_step_is_refused(write_trace, events):
    with pytest.raises(UsageError, match="marks no step"):
        cut_steps(read_trace(write_trace([events[0]("cpu_op", "aten::mm", 0, 1)])), "cpu")


def test_a_trace_without_device_rows_is_refused(write_trace, events):
    with pytest.raises(UsageError, match="no device rows"):
        cut_steps(read_trace(write_trace([events[1](0, 10)])), "cuda")


def test_a_step_without_a_kernel_is_refused(write_trace, events):
    _, step, launched = events
    with pytest.raises(UsageError, match="launched no kernel"):
        cut_steps(read_trace(write_trace([step(0, 10), *launched("late", 20, 30, 5, 1)])), "cuda")
    with pytest.raises(UsageError, match="called no operator"):
        cut_steps(read_trace(write_trace([step(0, 10)])), "cpu")


def test_a_launch_without_its_kernel_is_refused(write_trace, events):
    event, step, launched = events
    lost = event("cuda_runtime", "cudaLaunchKernelExC", 6, 2, correlation=2)
    # Only launches have kernels of their own.
    harmless = event("cuda_runtime", "cudaStreamIsCapturing", 8, 1, correlation=3)
    first = [step(0, 50), *launched("a", 2, 10, 20, 1), harmless]
    assert len(cut_steps(read_trace(write_trace(first)), "cuda")) == 1
    with pytest.raises(UsageError, match="1 launches of a step have no kernel in the trace"):
        cut_steps(read_trace(write_trace([*first, lost])), "cuda")


def test_streams_that_overlap_are_refused_and_streams_in_turn_are_not(write_trace, events):
    _, step, launched = events
    first = [step(0, 50), *launched("a", 2, 10, 20, 1, stream=7)]
    beside = write_trace([*first, *launched("b", 4, 25, 20, 2, stream=8)], "beside.json")
    with pytest.raises(UsageError, match="streams 7 and 8 overlap"):
        cut_steps(read_trace(beside), "cuda")
    after = write_trace([*first, *launched("b", 4, 30, 20, 2, stream=8)], "after.json")
    assert len(cut_steps(read_trace(after), "cuda")[0].kernels) == 2
