import pytest

from memfloor.record import StepTrace, TracedKernel
from memfloor.report.block import block_parts, same_blocks
from memfloor.report.ledger import make_ledgers, middle
from memfloor.report.timeline import bars, middle_block, slowest_first, typical_step


def kernel(name, start=0.0, seconds=1.0, **fields):
    fields = {"op": name, "role": "weights", **fields}
    return TracedKernel(name=name, start_seconds=(start,), seconds=(seconds,), **fields)


def trace(*kernels, step_seconds=(9.0,)):
    return StepTrace(
        tool="t", device="cpu", step_seconds=step_seconds, kernels=kernels, launches={}, labelled="modules"
    )


def test_a_kernel_lies_on_the_first_row_where_none_before_it_still_runs():
    times = {"a": (0.0, 5.0), "inside a": (1.0, 2.0), "over a's end": (4.0, 3.0), "at its end": (7.0, 1.0)}
    drawn = bars([kernel(name, *time) for name, time in times.items()], 0)
    assert {bar.kernel.name: bar.row for bar in drawn} == {"a": 0, "inside a": 1, "over a's end": 1, "at its end": 0}
    assert drawn[2].end_seconds == 7.0


def test_the_anatomies_and_the_step_shown_are_those_in_the_middle(anatomy_of):
    anatomies = [anatomy_of(seconds, trace(kernel("k"))) for seconds in (0.3, 0.1, 0.2, 0.4)]
    assert [anatomy.p50_seconds for anatomy in middle(anatomies)] == [0.2, 0.3]
    assert middle(anatomies[:3]) == [anatomies[2]]
    assert middle(anatomies[:1]) == [anatomies[0]]
    times = {"start_seconds": (0.0,) * 3, "seconds": (1.0,) * 3}
    steps = kernel("k").model_copy(update=times)
    assert typical_step(trace(steps, step_seconds=(3.0, 1.0, 2.0))) == 2


def test_ledgers_of_one_workload_stand_slowest_first(anatomy_of):
    taken = [anatomy_of(seconds, trace(kernel("k"))) for seconds in (0.1, 0.3, 0.2)]
    taken = [
        anatomy.model_copy(update={"cell": anatomy.cell.model_copy(update={"options": {"n": str(place)}})})
        for place, anatomy in enumerate(taken)
    ]
    assert [ledger.step_seconds.value for ledger in slowest_first(make_ledgers(taken))] == [0.3, 0.2, 0.1]


def test_the_middle_block_is_that_layer_or_a_layers_share(anatomy_of):
    # Two layers.
    layered = [kernel(f"k{n}", layer=layer) for n, layer in enumerate((None, 0, 1, 1, None))]
    assert middle_block(anatomy_of(1.0, trace(*layered))) == layered[2:4]
    unknown = [kernel(f"k{n}") for n in range(5)]
    assert middle_block(anatomy_of(1.0, trace(*unknown))) == unknown[2:4]


@pytest.fixture
def block(anatomy_of):
    def make(weight_bytes=4, **cell):
        kernels = [
            kernel("mul", 0, 1.0, op="aten::mul", scope="layers.1.norm", role="elementwise", layer=1),
            kernel("add", 1, 2.0, op="aten::add", scope="layers.1.norm", role="elementwise", layer=1),
            kernel("gemm", 3, 3.0, op="aten::mm", scope="layers.1.q_proj", layer=1, read_bytes=weight_bytes),
            kernel("reduce", 6, 4.0, op="aten::mm", scope="layers.1.q_proj", layer=1),
            kernel("add", 10, 5.0, op="aten::add", scope="layers.1", role="elementwise", layer=1),
        ]
        anatomy = anatomy_of(1.0, trace(*kernels))
        return anatomy.model_copy(update={"cell": anatomy.cell.model_copy(update=cell)})

    return make


def test_kernels_in_a_row_that_serve_one_module_are_one_part(block):
    parts = [(part.label, part.seconds, part.read_bytes) for part in block_parts(block())]
    assert parts == [("norm (2 kernels)", 3.0, 0), ("q_proj (2 kernels)", 7.0, 4), ("add", 5.0, 0)]


def test_cells_that_call_the_same_are_drawn_once(block):
    eager, graph, int8 = block(), block(options={"launch": "graph"}), block(weight_bytes=2)
    assert same_blocks([eager, int8, graph]) == [[eager, graph], [int8]]
