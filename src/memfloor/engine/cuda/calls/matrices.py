"""The launches of matrix-vector products."""

from dataclasses import dataclass
from math import e as euler
from math import log2
from typing import Any

import torch

from memfloor.engine.cuda.calls.kernel_call import KernelCall
from memfloor.engine.cuda.launch_shapes import ProjectionShape, RowShape, next_power_of_two
from memfloor.engine.cuda.matrix import Matrix, format_name
from memfloor.engine.kernels.gate_up.triton import gate_up_kernel
from memfloor.engine.kernels.head.triton import head_kernel
from memfloor.engine.kernels.projection.triton import projection_kernel
from memfloor.engine.kernels.qkv.triton import qkv_kernel

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Heads:
    """Hold the heads of one token between their projection and attention.

    Attributes:
        values: Q, K and V one after another, float32 [(H + 2 Hkv) * D].
        squares: What the norms of Q and K still need, float32 [(H + Hkv) * D / 2]; None without such norms.
        kv_heads: Hkv.
        head_dim: D.
    """

    values: Tensor
    squares: Tensor | None
    kv_heads: int
    head_dim: int

    @property
    def query_heads(self) -> int:
        """Return H."""
        return self.values.numel() // self.head_dim - 2 * self.kv_heads

    def args(self) -> tuple[Tensor, Tensor]:
        """Return values and squares as a kernel takes them."""
        return self.values, self.values if self.squares is None else self.squares

    def constants(self) -> dict[str, Any]:
        """Return the numbers that kernels are compiled for."""
        return {
            "H": self.query_heads,
            "HKV": self.kv_heads,
            "D": self.head_dim,
            "QK_NORM": self.squares is not None,
        }


@dataclass(frozen=True, slots=True)
class Draws:
    """Say how tokens are drawn from logits.

    Attributes:
        position: Slot of the token, int32 [1]; each has draws of its own.
        temperature: Above 0.
        seed: 0 to 2**31 - 1.
    """

    position: Tensor
    temperature: float
    seed: int


def qkv_call(
    x: Tensor,
    sums: Tensor,
    w: Matrix,
    bias: Tensor | None,
    qk_norm: tuple[Tensor, Tensor] | None,
    rope_row: Tensor,
    heads: Heads,
    *,
    eps: float,
    shape: RowShape,
    pdl: int,
) -> KernelCall:
    """Project normed x [E] by w [(H + 2 Hkv) * D, E] plus bias into heads, Q and K rotated.

    Args:
        x: Residual stream times the norm's weight, bf16 [E].
        sums: Partial sums of its squares.
        w: Q, K and V rows.
        bias: One number per row, or None.
        qk_norm: Weights of the norms of Q and K heads [D], or None.
        rope_row: Cosines, then sines of the position, float32 [D].
        heads: What is written; Q is scaled for a softmax of powers of two.
        eps: Of both norms.
        shape: Launch shape; its rows are pairs, no more than half a head.
        pdl: Mode of programmatic dependent launch.
    """
    buffer, shape = _buffer(w), shape.fitted(heads.head_dim // 2)
    constants = {
        **_row_constants(w, sums, eps, shape, pdl),
        **heads.constants(),
        "HAS_BIAS": bias is not None,
        "SCALE": log2(euler) / heads.head_dim**0.5,
    }
    norms = qk_norm or (buffer, buffer)
    args = (x, sums, buffer, buffer if bias is None else bias, *norms, rope_row, *heads.args())
    reads = _present(buffer, bias, *(qk_norm or ()))
    programs = shape.programs(w.shape[0] // 2)
    return KernelCall("qkv", qkv_kernel, programs, args, constants, shape.warps, reads, shape.registers)


def gate_up_call(
    x: Tensor, sums: Tensor, w: Matrix, out: Tensor, *, eps: float, shape: RowShape, pdl: int
) -> KernelCall:
    """Join normed x [E] by gate and up rows w [2, F, E], packed [2 F, E], into out [F]."""
    buffer, rows = _buffer(w), out.numel()
    constants = {"N": rows, **_row_constants(w, sums, eps, shape, pdl)}
    args = (x, sums, buffer, out)
    programs, warps = shape.programs(rows), shape.warps
    return KernelCall("gate_up", gate_up_kernel, programs, args, constants, warps, (buffer,), shape.registers)


def head_call(
    x: Tensor,
    sums: Tensor,
    w: Matrix,
    logits: Tensor,
    best_value: Tensor,
    best_token: Tensor,
    *,
    draws: Draws | None = None,
    eps: float,
    shape: RowShape,
    pdl: int,
) -> KernelCall:
    """Project normed x [E] by w [V, E] into logits [V] and the best of each program, or the best draw of each."""
    buffer = _buffer(w)
    constants = {"N": w.shape[0], **_row_constants(w, sums, eps, shape, pdl)}
    constants |= {"TEMPERATURE": draws.temperature if draws else 0.0, "SEED": draws.seed if draws else 0}
    args = (x, sums, buffer, draws.position if draws else buffer, logits, best_value, best_token)
    programs, warps = shape.programs(w.shape[0]), shape.warps
    return KernelCall("head", head_kernel, programs, args, constants, warps, (buffer,), shape.registers)


def projection_call(
    x: Tensor,
    w: Matrix,
    bias: Tensor | None,
    residual: Tensor,
    norm_weight: Tensor,
    normed: Tensor,
    sums: Tensor,
    partial: Tensor,
    ticket: Tensor,
    *,
    shape: ProjectionShape,
    pdl: int,
) -> KernelCall:
    """Add w [N, K] x [K] + bias [N] to the residual [N] and prepare the next norm."""
    buffer, (rows, columns) = _buffer(w), w.shape
    shape = shape.fitted(columns)
    splits = shape.splits(columns)
    constants = {
        "N": rows,
        "K": columns,
        "HAS_BIAS": bias is not None,
        "FORMAT": format_name(w),
        "BLOCK_N": shape.block_n,
        "BLOCK_K": shape.block_k,
        "STEPS": shape.steps,
        "AHEAD": shape.ahead,
        "SPLITS": splits,
        "BLOCK_SPLITS": next_power_of_two(splits),
        "PDL": pdl,
    }
    args = (x, buffer, buffer if bias is None else bias, residual, norm_weight, normed, sums, partial, ticket)
    programs = -(-rows // shape.block_n) * splits
    reads = _present(buffer, bias, norm_weight)
    warps, registers = shape.warps, shape.registers
    return KernelCall("projection", projection_kernel, programs, args, constants, warps, reads, registers)


def _row_constants(w: Matrix, sums: Tensor, eps: float, shape: RowShape, pdl: int) -> dict[str, Any]:
    columns = w.shape[-1]
    return {
        "K": columns,
        "EPS": eps,
        "NUM_SUMS": sums.numel(),
        "BLOCK_SUMS": next_power_of_two(sums.numel()),
        "FORMAT": format_name(w),
        "BLOCK_N": shape.block_n,
        "BLOCK_K": next_power_of_two(columns),
        "PDL": pdl,
    }


def _buffer(w: Matrix) -> Tensor:
    return w if isinstance(w, Tensor) else w.words


def _present(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in tensors if tensor is not None)
