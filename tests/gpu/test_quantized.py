"""Steps over quantised weights, compiled: logits against float32 over the dequantised ones, and equal bits."""

import pytest
import torch

from memfloor.engine.cuda.default_shapes import default_shapes
from memfloor.engine.cuda.launch_shapes import LaunchShapes
from memfloor.engine.cuda.matrix import FORMATS
from memfloor.engine.cuda.model import DecodeModel
from memfloor.engine.cuda.weights import random_weights
from memfloor.engine.decode import Decoder
from memfloor.engine.kernels.dependency import MODES
from memfloor.engine.reference import reference_logits
from memfloor.spec import ModelSpec, load_model

pytestmark = pytest.mark.gpu
MAX_LEN, POSITION = 2560, 2048


def shapes_of(spec: ModelSpec, weights: str) -> LaunchShapes:
    sms = torch.cuda.get_device_properties("cuda").multi_processor_count
    return default_shapes(spec, sms, weights, weights)


# In the smaller models few lanes share a row.
@pytest.fixture(
    scope="module",
    params=[
        (form, name) for name in ("qwen2.5-7b", "qwen2.5-1.5b", "qwen2.5-0.5b") for form in FORMATS if form != "bf16"
    ],
    ids="-".join,
)
def quantised(request):
    weights, name = request.param
    spec = load_model(name).model_copy(update={"num_hidden_layers": 2, "tie_word_embeddings": False})
    return weights, spec, random_weights(spec, torch.device("cuda"), 1, weights, weights)


def model_of(quantised, fill, pdl: str) -> DecodeModel:
    weights, spec, packed = quantised
    model = DecodeModel(spec, packed, MAX_LEN, shapes_of(spec, weights), MODES[pdl])
    fill(model.cache)
    return model


def modes() -> list[str]:
    return list(MODES) if torch.cuda.get_device_capability() >= (9, 0) else ["off"]


def test_logits_agree_with_float32_over_dequantised_weights(quantised, fill):
    for pdl in modes():
        model = model_of(quantised, fill, pdl)
        want = reference_logits(model.spec, model.weights, model.cache, model.rope, 77, POSITION)
        decoder = Decoder(model, "eager")
        decoder.start(77, POSITION)
        decoder.step()
        assert float((model.logits - want).norm() / want.norm()) < 2e-2


def test_every_way_to_launch_gives_the_same_bits(quantised, fill):
    logits = []
    for pdl in modes():
        for launch, steps in (("eager", 1), ("graph", 1), ("graph", 4)):
            decoder = Decoder(model_of(quantised, fill, pdl), launch, steps)
            decoder.start(77, POSITION)
            for _ in range(8 // steps):
                decoder.step()
            logits.append(decoder.model.logits.clone())
    assert all(torch.equal(logits[0], other) for other in logits[1:])
