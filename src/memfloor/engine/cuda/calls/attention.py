"""The launches of attention: one over splits of the past, one that joins them with the token itself."""

import torch
import triton
import triton.language as tl

from memfloor.engine.cuda.calls.kernel_call import KernelCall
from memfloor.engine.cuda.calls.matrices import Heads
from memfloor.engine.cuda.launch_shapes import AttentionShape, next_power_of_two
from memfloor.engine.kernels.attention.triton import attention_kernel, combine_kernel

Tensor = torch.Tensor
# What queries and softmax weights are rounded to, and keys and values converted to, for their products: by the type of
# the cache. A GPU that has fp8 turns two numbers of it into float16 in one instruction, exactly, and needs several for
# bf16. The interpreter cannot multiply bf16 matrices.
DOT_TYPES = {
    torch.bfloat16: tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16,
    torch.float8_e4m3fn: tl.float16,
}
COMBINE_WARPS = 4


def attention_calls(
    heads: Heads,
    position: Tensor,
    cache: Tensor,
    out: Tensor,
    scratch: tuple[Tensor, Tensor, Tensor],
    *,
    eps: float,
    shape: AttentionShape,
    pdl: int,
    window: int = 0,
) -> list[KernelCall]:
    """Attend from one token to a layer's cache [2, Hkv, max_len, D] by splits; join them with the token and append it.

    Args:
        heads: What qkv_call wrote.
        position: Slot of the token, int32 [1].
        cache: Keys, then values.
        out: [H * D].
        scratch: Partials [H * splits * D], maxima and sums [H * splits], float32.
        eps: Of the QK norm.
        shape: Launch shape.
        pdl: Mode of programmatic dependent launch.
        window: Slots that the token sees, its own included; 0 is all.
    """
    max_len, dot_type = cache.shape[2], DOT_TYPES[cache.dtype]
    splits = shape.splits(max_len, window)
    common = {
        **heads.constants(),
        "MAX_LEN": max_len,
        "EPS": eps,
        "SPLITS": splits,
        "DOT_TYPE": dot_type,
        "PDL": pdl,
    }
    query_heads = common.pop("H")
    group = query_heads // heads.kv_heads
    constants = {
        **common,
        "GROUP": group,
        "BLOCK_G": max(16, next_power_of_two(group)),
        "BLOCK_S": shape.block_s,
        "WINDOW": window,
    }
    args = (*heads.args(), position, cache[0], cache[1], *scratch)
    attend = KernelCall("attention", attention_kernel, heads.kv_heads * splits, args, constants, shape.warps)
    common |= {"H": query_heads, "BLOCK_SPLITS": next_power_of_two(splits)}
    return [attend, KernelCall("combine", combine_kernel, query_heads, (*args, out), common, COMBINE_WARPS)]
