"""Every kernel of a full-size layer against its reference, each from what the one before it really wrote."""

import pytest
import torch

from memfloor.engine.cuda.model import DecodeModel
from memfloor.engine.kernels.attention.reference import attention, combine
from memfloor.engine.kernels.embed.reference import embed
from memfloor.engine.kernels.gate_up.reference import gate_up
from memfloor.engine.kernels.head.reference import head
from memfloor.engine.kernels.projection.reference import projection
from memfloor.engine.kernels.qkv.reference import qkv, turned

pytestmark = pytest.mark.gpu
# bf16 keeps eight bits; queries, keys and weights of attention are rounded to it before the products.
BF16_STEP = 2.0**-7
LOG2_E = 1.4426950408889634
# Float32 sums of at most 18944 products, in two orders.
SUM_BOUND = 2 * 18944**0.5 * 2.0**-23


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.float() - want.float()).norm() / want.float().norm())


class Walk:
    """Launch a plan call by call, and know what each should have written."""

    def __init__(self, model: DecodeModel, position: int) -> None:
        self.model, self.position = model, position
        self.spec, self.weights = model.spec, model.weights
        self.layer, self.calls = self.weights.layers[0], list(model.plan.calls)
        model.start(77, position)

    def launch(self, *ops: str) -> None:
        for op in ops:
            call = self.calls.pop(0)
            assert call.op == op
            call.issue()

    def embed(self) -> None:
        want = embed(77, self.weights.embedding, self.layer.input_norm)
        self.assert_residual_is(want, self.model.down_sums, 1e-7)

    def qkv_attention_and_o_proj(self) -> None:
        model, layer, cache = self.model, self.layer, self.model.cache[0]
        spec, kv_heads = self.spec, self.spec.num_key_value_heads
        raw = qkv(model.normed, model.down_sums, layer.qkv, layer.qkv_bias, spec.rms_norm_eps)
        cos, sin = (table[self.position] for table in model.rope)
        want, _ = turned(raw, kv_heads, cos, sin, layer.qk_norm, LOG2_E / spec.head_dim**0.5)
        self.launch("qkv")
        assert relative_error(model.heads.values, want) < SUM_BOUND
        attended, key, value = attention(
            raw, self.position, *model.rope, cache[0], cache[1], layer.qk_norm, spec.rms_norm_eps
        )
        self.launch("attention")
        heads = want.view(-1, spec.head_dim)
        per_kv_head = spec.num_attention_heads // kv_heads
        own = (heads[: spec.num_attention_heads] * key.repeat_interleave(per_kv_head, 0)).sum(dim=1)
        joined = combine(*self.partials(), own, value.repeat_interleave(per_kv_head, 0))
        assert relative_error(joined, attended.flatten()) < BF16_STEP
        self.launch("combine")
        assert relative_error(model.attended, attended.flatten()) < BF16_STEP
        assert relative_error(cache[0, :, self.position], key) < BF16_STEP
        assert relative_error(cache[1, :, self.position], value) < BF16_STEP
        self.projection(model.attended, layer.o_proj, layer.post_norm, model.o_sums)

    def partials(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """Return attention's partials, maxima and sums, and how many splits hold slots."""
        heads, shape = self.spec.num_attention_heads, self.model.shapes.attention
        partial, maxima, sums = self.model.attention_scratch
        used = min(-(-self.position // shape.block_s), shape.splits(self.model.max_len))
        by_head = maxima.view(heads, -1), sums.view(heads, -1)
        return partial.view(*by_head[0].shape, self.spec.head_dim), *by_head, used

    def mlp(self) -> None:
        model, layer = self.model, self.layer
        want = gate_up(model.normed, model.o_sums, layer.gate_up, self.spec.rms_norm_eps)
        self.launch("gate_up")
        assert relative_error(model.joined, want) < BF16_STEP
        self.projection(model.joined, layer.down_proj, self.weights.final_norm, model.down_sums)

    def projection(self, x: torch.Tensor, w: torch.Tensor, norm: torch.Tensor, sums: torch.Tensor) -> None:
        want = projection(x, w, None, self.model.residual.clone(), norm)
        self.launch("projection")
        self.assert_residual_is(want, sums, SUM_BOUND)

    def assert_residual_is(self, want: tuple[torch.Tensor, ...], sums: torch.Tensor, bound: float) -> None:
        residual, normed, squares = want
        assert relative_error(self.model.residual, residual) <= bound
        assert relative_error(self.model.normed, normed) < BF16_STEP
        assert float(sums.sum()) == pytest.approx(float(squares), rel=1e-5)

    def head_and_sample(self) -> None:
        model = self.model
        want = head(model.normed, model.down_sums, self.weights.head, self.spec.rms_norm_eps)
        self.launch("head")
        assert relative_error(model.logits, want) < SUM_BOUND
        self.launch("sample")
        assert int(model.token) == int(model.logits.argmax()) == model.ring()[self.position]
        assert int(model.position) == self.position + 1
        assert not self.calls


@pytest.mark.parametrize("position", [0, 64, 2111])
def test_every_kernel_gives_what_its_reference_gives(build, pdl, position):
    walk = Walk(build("qwen2.5-7b", 1, pdl), position)
    walk.embed()
    walk.qkv_attention_and_o_proj()
    walk.mlp()
    walk.head_and_sample()
