"""The launch of the read that finds a GPU's ceiling."""

import torch

from memfloor.engine.cuda.calls.kernel_call import KernelCall
from memfloor.engine.kernels.stream.triton import stream_kernel


def stream_call(source: torch.Tensor, partial: torch.Tensor, block: int, unroll: int, warps: int) -> KernelCall:
    """Read int32 numbers once; programs are as many as `partial` has numbers.

    Args:
        source: int32, a multiple of block * unroll numbers.
        partial: int32 [programs].
        block: Numbers per block.
        unroll: Blocks in flight per program.
        warps: Warps per program.
    """
    constants = {
        "NUM_BLOCKS": source.numel() // (block * unroll),
        "PROGRAMS": partial.numel(),
        "BLOCK": block,
        "UNROLL": unroll,
    }
    return KernelCall("stream", stream_kernel, partial.numel(), (source, partial), constants, warps, (source,))
