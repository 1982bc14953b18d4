"""Whatever launches a step, wherever it was captured and whatever else the GPU does: the bits are the same."""

import random

import pytest
import torch

from memfloor.engine.cuda.default_shapes import default_shapes
from memfloor.engine.cuda.graph import CapturedPlan
from memfloor.engine.cuda.matrix import FORMATS
from memfloor.engine.cuda.model import DecodeModel
from memfloor.engine.cuda.weights import random_weights
from memfloor.engine.decode import Decoder
from memfloor.spec import load_model

pytestmark = pytest.mark.gpu
NAME, LAYERS = "qwen2.5-7b", 2
# The tokens of some steps, the last logits and the whole cache after them.
Outcome = tuple[list[int], torch.Tensor, torch.Tensor]


def outcome(decoder: Decoder, position: int, steps: int) -> Outcome:
    decoder.start(77, position)
    for _ in range(steps // decoder.steps_per_issue):
        decoder.step()
    return decoder.tokens(position, steps), decoder.model.logits.clone(), decoder.model.cache.clone()


def assert_same_bits(got: Outcome, want: Outcome) -> None:
    assert bool(want[1].isfinite().all())
    assert got[0] == want[0]
    assert torch.equal(got[1], want[1])
    assert torch.equal(got[2], want[2])


@pytest.mark.parametrize(("launch", "steps_per_issue"), [("eager", 1), ("graph", 1), ("graph", 8)])
def test_every_launch_gives_the_bits_of_eager_without_overlap(build, pdl, launch, steps_per_issue):
    want = outcome(Decoder(build(NAME, LAYERS, "off"), "eager"), 2000, 32)
    got = outcome(Decoder(build(NAME, LAYERS, pdl), launch, steps_per_issue), 2000, 32)
    assert_same_bits(got, want)


@pytest.mark.parametrize("window", [None, 300])
def test_a_graph_captured_at_position_10_serves_position_2000(build, fill, pdl, window):
    model = build(NAME, LAYERS, pdl, window=window)
    model.start(77, 10)
    # Compiles every kernel.
    model.plan.issue()
    model.start(77, 10)
    captured = CapturedPlan(model.plan, 1)
    captured.issue()
    fill(model.cache)
    model.start(77, 2000)
    for _ in range(8):
        captured.issue()
    got = model.ring()[2000:2008], model.logits, model.cache
    fresh = Decoder(build(NAME, LAYERS, pdl, window=window), "graph")
    assert_same_bits(got, outcome(fresh, 2000, 8))


@pytest.mark.parametrize("weights", FORMATS)
def test_a_replayed_prompt_leaves_the_bits_of_an_eager_one(weights):
    spec = load_model(NAME).model_copy(update={"num_hidden_layers": LAYERS})
    packed = random_weights(spec, torch.device("cuda"), 1, weights)
    shapes = default_shapes(spec, torch.cuda.get_device_properties("cuda").multi_processor_count, weights)
    eager, replayed = (Decoder(DecodeModel(spec, packed, 1600, shapes, 0), launch) for launch in ("eager", "graph"))
    # The second is replayed by the graph of the first; of the last, its first chunk.
    for count in (276, 300, 64, 1500):
        tokens = [(7919 * slot + count) % 1000 for slot in range(count)]
        for decoder in (eager, replayed):
            decoder.prefill(tokens)
        assert torch.equal(replayed.model.cache[:, :, :, :count], eager.model.cache[:, :, :, :count])
    assert bool(eager.model.cache.float().isfinite().all())


def test_draws_are_the_same_however_a_step_is_launched(build, pdl):
    drawn = []
    for overlap, launch, steps_per_issue in (("off", "eager", 1), (pdl, "graph", 1), (pdl, "graph", 8)):
        model = build(NAME, LAYERS, overlap)
        model.sample_with(0.8, seed=5)
        drawn.append(outcome(Decoder(model, launch, steps_per_issue), 2000, 16))
    assert_same_bits(drawn[1], drawn[0])
    assert_same_bits(drawn[2], drawn[0])


@pytest.mark.parametrize("launch", ["eager", "graph"])
def test_work_of_others_at_random_times_changes_no_bit(build, fill, pdl, launch):
    decoder = Decoder(build(NAME, LAYERS, pdl), launch)
    want = outcome(decoder, 2000, 200)
    fill(decoder.model.cache)
    neighbour = Neighbour(seed=5)
    decoder.start(77, 2000)
    for _ in range(200):
        neighbour.perhaps_work()
        decoder.step()
    torch.cuda.synchronize()
    assert_same_bits((decoder.tokens(2000, 200), decoder.model.logits, decoder.model.cache), want)


class Neighbour:
    """Keep multiprocessors and memory busy from another stream, now and then and for random times."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._stream = torch.cuda.Stream()
        self._numbers = torch.ones(1 << 26, device="cuda")
        self._matrix = torch.ones(2048, 2048, device="cuda", dtype=torch.bfloat16)
        torch.cuda.synchronize()

    def perhaps_work(self) -> None:
        """Queue a wait, a pass over memory, a product of matrices, or nothing."""
        kind = self._random.randrange(6)
        with torch.cuda.stream(self._stream):
            if kind == 0:
                torch.cuda._sleep(self._random.randrange(1_000_000))
            elif kind == 1:
                self._numbers[: self._random.randrange(1, 1 << 26)].mul_(1.0)
            elif kind == 2:
                torch.mm(self._matrix, self._matrix)
