"""The launch that writes packed weights out as bf16."""

import torch

from memfloor.engine.cuda.calls.kernel_call import KernelCall
from memfloor.engine.cuda.matrix import PackedMatrix
from memfloor.engine.kernels.unpack.triton import unpack_kernel

# Words of a program, four a lane.
BLOCK, WARPS = 1024, 8


def unpack_call(matrix: PackedMatrix, out: torch.Tensor) -> KernelCall:
    """Write the bf16 numbers nearest to what a matrix stands for to `out` [N, K]."""
    rows, columns = matrix.shape
    constants = {"N": rows, "K": columns, "FORMAT": matrix.format, "BLOCK": BLOCK}
    programs = -(-matrix.values.numel() // BLOCK)
    return KernelCall("unpack", unpack_kernel, programs, (matrix.words, out), constants, WARPS, (matrix.words,))
