"""Logits of full-size layers, and of a whole model, against the same step in float32."""

from typing import Any, NamedTuple

import pytest
import torch

from memfloor.engine.cuda.default_shapes import default_shapes
from memfloor.engine.cuda.model import DecodeModel
from memfloor.engine.cuda.prefill import CHUNK_TOKENS
from memfloor.engine.cuda.weights import pack_weights
from memfloor.engine.decode import Decoder
from memfloor.engine.kernels.dependency import MODES
from memfloor.engine.reference import reference_logits
from memfloor.runtimes.hf_model import hf_config_fields
from memfloor.runtimes.random_weights import fill_parameters
from memfloor.spec import load_model

pytestmark = pytest.mark.gpu
TOKENS = [(7919 * slot) % 1000 for slot in range(300)]


class WholeModel(NamedTuple):
    """Qwen-2.5-7B in all its layers: the engine's weights, and what transformers makes of TOKENS in two precisions."""

    spec: Any
    weights: Any
    float32: torch.Tensor
    bf16: torch.Tensor


@pytest.fixture(scope="module")
def whole():
    transformers = pytest.importorskip("transformers")
    if torch.cuda.get_device_properties("cuda").total_memory < 64 * 2**30:
        pytest.skip("a model of 7.6 billion parameters in float32 beside its bf16 weights takes 64 GiB")
    spec = load_model("qwen2.5-7b")
    config = transformers.AutoConfig.for_model(**hf_config_fields(spec))
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation="eager"
        ).eval()
    fill_parameters(model, seed=1)
    ids, logits = torch.tensor([TOKENS], device="cuda"), []
    with torch.inference_mode():
        weights = pack_weights(spec, model.state_dict(), torch.device("cuda"))
        for dtype in (torch.bfloat16, torch.float32):
            # Not the frequencies of its positions, which are float32 in either.
            for parameter in model.parameters():
                parameter.data = parameter.data.to(dtype)
            logits.append(model(ids, use_cache=False).logits[0, -1].float())
    return WholeModel(spec, weights, float32=logits[1], bf16=logits[0])


@pytest.mark.parametrize("prompt", ["in one pass", "token by token"])
def test_a_whole_model_is_as_near_to_float32_as_transformers_in_bf16(whole, prompt):
    device = torch.cuda.get_device_properties("cuda")
    pdl = MODES["preload" if device.major >= 9 else "off"]
    model = DecodeModel(whole.spec, whole.weights, 320, default_shapes(whole.spec, device.multi_processor_count), pdl)
    decoder = Decoder(model, "graph")
    if prompt == "in one pass":
        decoder.prefill(TOKENS[:-1])
        decoder.start(TOKENS[-1], len(TOKENS) - 1)
        decoder.step()
    else:
        for slot, token in enumerate(TOKENS):
            decoder.start(token, slot)
            decoder.step()
    size = float(whole.float32.norm())
    ours, theirs = (float((got - whole.float32).norm()) / size for got in (model.logits, whole.bf16))
    assert ours < 1.1 * theirs < 0.1


@pytest.mark.parametrize("position", [0, 63, 64, 2048])
@pytest.mark.parametrize(
    ("name", "layers", "kv", "window"),
    [
        ("qwen2.5-7b", 1, "bf16", None),
        ("qwen2.5-7b", 2, "bf16", None),
        ("qwen3-8b", 1, "bf16", None),
        ("qwen2.5-7b", 1, "fp8", None),
        ("qwen2.5-7b", 2, "bf16", 300),
        ("qwen3-8b", 2, "fp8", 65),
    ],
)
def test_logits_agree_with_float32(build, name, layers, kv, window, position, pdl):
    model = build(name, layers, pdl, kv, window)
    want = reference_logits(model.spec, model.weights, model.cache, model.rope, 77, position)
    decoder = Decoder(model, "eager")
    decoder.start(77, position)
    decoder.step()
    # A key or value between two numbers of e4m3 may be stored as the other one, an eighth away.
    assert float((model.logits - want).norm() / want.norm()) < (3e-2 if kv == "fp8" else 2e-2)
    assert int(model.token) == int(model.logits.argmax())


def test_a_prompt_in_chunks_leaves_the_cache_that_its_tokens_leave_one_by_one(build, pdl):
    tokens = [(7919 * slot) % 1000 for slot in range(CHUNK_TOKENS + 40)]
    model = build("qwen2.5-7b", 2, pdl)
    model.prefill(tokens)
    chunks = model.cache.float().clone()
    for slot, token in enumerate(tokens):
        model.start(token, slot)
        model.plan.issue()
    for found, want in zip(chunks.flatten(0, 1), model.cache.float().flatten(0, 1), strict=True):
        assert float((found - want).norm() / want.norm()) < 2e-2
