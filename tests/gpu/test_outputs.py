"""Launch modes of one runtime start alike, and again after a rewind: the same bits, on which comparisons are gated."""

import pytest

from memfloor.record import Cell
from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.spec import Workload, load_model

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("runtime", ["engine", "hf-static"])
def test_eager_and_graph_give_the_same_outputs(runtime):
    spec = load_model("qwen2.5-0.5b").model_copy(update={"num_hidden_layers": 2})
    found = []
    for launch in ("eager", "graph"):
        cell = Cell(spec=spec, workload=Workload.of(512), runtime=runtime, options={"launch": launch}, device="cuda")
        system = find_runtime(runtime)(DecodeRequest(cell, start_len=500, max_steps=20, seed=1))
        system.prepare()
        found.append(system.outputs(16))
        system.rewind()
        found.append(system.outputs(16))
    assert found[0].logits_sha256 is not None
    assert found[1:] == found[:1] * 3
