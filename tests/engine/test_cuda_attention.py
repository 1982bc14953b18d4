"""The plan of attention alone, its kernels run by Triton's interpreter, against float32."""

import pytest
import torch

from memfloor.engine.cuda.attention import CudaAttention
from memfloor.engine.cuda.launch_shapes import AttentionShape
from memfloor.runtimes.attention.layers import Layer, output_error
from memfloor.spec import from_hf_config

CPU = torch.device("cpu")
SIZES = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 32}
# The result is rounded to bf16, to 2**-9 of itself, and so is the query before it meets the token's own key, which
# changes the weight of that one slot by a score, 4 at most, times as much. The interpreter multiplies in float32.
TOLERANCE = 2.0**-9 + 2.0**-7


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "context_len"), [(14, 2, 16, 37), (2, 2, 32, 16), (4, 1, 16, 1)]
)
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "sliding"])
def test_every_layer_attends_to_its_own_cache_and_to_the_token_itself(heads, kv_heads, head_dim, context_len, family):
    sizes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}
    window = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1} if family == "sliding" else {}
    model_type = {"model_type": "qwen2" if window else family}
    spec = from_hf_config({**SIZES, **sizes, **window, **model_type, "max_position_embeddings": 64}, family)
    attention = CudaAttention(spec, context_len, CPU, AttentionShape(block_s=16, max_splits=2, warps=1), 0)
    numbers = torch.Generator().manual_seed(heads)
    layers = []
    for index in range(spec.num_hidden_layers):
        # A layer that slides is given what it sees.
        seen = min(context_len, spec.window_of(index) or context_len)
        shapes = ((1, heads, 1, head_dim), *[(1, kv_heads, seen, head_dim)] * 2)
        layers.append(Layer(*(torch.randn(shape, generator=numbers).bfloat16() for shape in shapes)))
        attention.add_layer(layers[-1].query[0, :, 0], layers[-1].keys[0], layers[-1].values[0])
    before = attention.cache.clone()
    for output in attention.outputs:
        output.fill_(float("nan"))
    # A second step does the same work again: the token is appended where it lies already.
    for _ in range(2):
        attention.plan.issue()
    assert torch.equal(attention.cache, before)
    assert attention.plan.counts() == {"attention": 2, "combine": 2}
    for layer, output in zip(layers, attention.outputs, strict=True):
        assert output_error(output, layer).relative_norm < TOLERANCE
