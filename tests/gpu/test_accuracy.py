"""Logits of full-size layers against the same step in float32."""

import pytest

from memfloor.engine.cuda.prefill import CHUNK_TOKENS
from memfloor.engine.decode import Decoder
from memfloor.engine.reference import reference_logits

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("position", [0, 63, 64, 2048])
@pytest.mark.parametrize(
    ("name", "layers", "kv"),
    [("qwen2.5-7b", 1, "bf16"), ("qwen2.5-7b", 2, "bf16"), ("qwen3-8b", 1, "bf16"), ("qwen2.5-7b", 1, "fp8")],
)
def test_logits_agree_with_float32(build, name, layers, kv, position, pdl):
    model = build(name, layers, pdl, kv)
    want = reference_logits(model.spec, model.weights, model.cache, model.rope, 77, position)
    decoder = Decoder(model, "eager")
    decoder.start(77, position)
    decoder.step()
    assert float((model.logits - want).norm() / want.norm()) < 2e-2
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
