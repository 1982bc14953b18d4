"""One kernel launch with everything it needs, and how each operation becomes one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import e as euler
from math import log2
from typing import Any

import torch
import triton
import triton.language as tl

from memfloor.engine.cuda.launch_shapes import AttentionShape, ProjectionShape, RowShape, next_power_of_two
from memfloor.engine.cuda.matrix import Matrix, format_name
from memfloor.engine.kernels.attention.triton import attention_kernel, combine_kernel
from memfloor.engine.kernels.embed.triton import embed_kernel
from memfloor.engine.kernels.gate_up.triton import gate_up_kernel
from memfloor.engine.kernels.head.triton import head_kernel
from memfloor.engine.kernels.projection.triton import projection_kernel
from memfloor.engine.kernels.qkv.triton import qkv_kernel
from memfloor.engine.kernels.sample.triton import sample_kernel
from memfloor.engine.kernels.stream.triton import stream_kernel

Tensor = torch.Tensor
# The interpreter cannot multiply bf16 matrices.
DOT_TYPE = tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16
COMBINE_WARPS = 4
SAMPLE_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class KernelCall:
    """Launch one kernel over fixed buffers; issuing it again does the same work again.

    Attributes:
        op: Name of the operation, as its folder in `kernels`.
        kernel: The Triton kernel.
        programs: Programs of the launch.
        args: Pointers, in the kernel's order.
        constants: Compile-time numbers by name.
        warps: Warps per program.
        reads: Tensors whose bytes the kernel reads once from memory: weights and such, no activations.
        registers: Registers per lane at most, or None.
    """

    op: str
    kernel: Any
    programs: int
    args: tuple[Tensor, ...]
    constants: Mapping[str, Any]
    warps: int
    reads: tuple[Tensor, ...] = field(default=())
    registers: int | None = None

    @property
    def read_bytes(self) -> int:
        """Return the bytes of `reads`."""
        return sum(tensor.nbytes for tensor in self.reads)

    def issue(self) -> None:
        """Launch the kernel on the current stream."""
        self.kernel[(self.programs,)](*self.args, **self.constants, **self.options())

    def options(self) -> dict[str, Any]:
        """Return the compiler's options, and whether the launch may overlap the one before."""
        options: dict[str, Any] = {"num_warps": self.warps, "num_stages": 1}
        if self.registers is not None:
            options["maxnreg"] = self.registers
        if self.constants.get("PDL"):
            options["launch_pdl"] = True
        return options


@dataclass(frozen=True, slots=True)
class StepInput:
    """Hold what one step starts from, in device memory.

    Attributes:
        token: int32 [1].
        position: Slot of the token, int32 [1].
        residual: The token's embedding, float32 [E].
        normed: The same times the first norm's weight, bf16 [E].
        sums: Partial sums of squares of the residual, float32.
        rope_row: Cosines, then signed sines of the position, float32 [2 * D].
    """

    token: Tensor
    position: Tensor
    residual: Tensor
    normed: Tensor
    sums: Tensor
    rope_row: Tensor

    def outputs(self) -> tuple[Tensor, ...]:
        """Return what an embedding kernel writes, in its order."""
        return self.residual, self.normed, self.sums, self.rope_row


def stream_call(source: Tensor, partial: Tensor, block: int, unroll: int, warps: int) -> KernelCall:
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


def qkv_call(
    x: Tensor,
    sums: Tensor,
    w: Matrix,
    bias: Tensor | None,
    out: Tensor,
    *,
    eps: float,
    shape: RowShape,
    pdl: int,
) -> KernelCall:
    """Project normed x [E] by w [N, E] plus bias [N] into out [N], float32."""
    buffer = _buffer(w)
    constants = _row_constants(w, w.shape[0], sums, eps, shape, pdl)
    constants["HAS_BIAS"] = bias is not None
    args = (x, sums, buffer, buffer if bias is None else bias, out)
    programs = shape.programs(w.shape[0])
    reads = _present(buffer, bias)
    return KernelCall("qkv", qkv_kernel, programs, args, constants, shape.warps, reads, shape.registers)


def gate_up_call(
    x: Tensor, sums: Tensor, w: Matrix, out: Tensor, *, eps: float, shape: RowShape, pdl: int
) -> KernelCall:
    """Join normed x [E] by gate and up rows w [2, F, E], packed [2 F, E], into out [F]."""
    buffer, rows = _buffer(w), out.numel()
    constants = _row_constants(w, rows, sums, eps, shape, pdl)
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
    eps: float,
    shape: RowShape,
    pdl: int,
) -> KernelCall:
    """Project normed x [E] by w [V, E] into logits [V] and the best of each program."""
    buffer = _buffer(w)
    constants = _row_constants(w, w.shape[0], sums, eps, shape, pdl)
    args = (x, sums, buffer, logits, best_value, best_token)
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
    splits = shape.splits(columns)
    constants = {
        "N": rows,
        "K": columns,
        "HAS_BIAS": bias is not None,
        **_format_constants(w, shape),
        "BLOCK_N": shape.block_n,
        "BLOCK_K": shape.block_k,
        "STEPS": shape.steps,
        "SPLITS": splits,
        "BLOCK_SPLITS": next_power_of_two(splits),
        "LANES": 32 * shape.warps,
        "PDL": pdl,
    }
    args = (x, buffer, buffer if bias is None else bias, residual, norm_weight, normed, sums, partial, ticket)
    programs = -(-rows // shape.block_n) * splits
    reads = _present(buffer, bias, norm_weight)
    warps, registers = shape.warps, shape.registers
    return KernelCall("projection", projection_kernel, programs, args, constants, warps, reads, registers)


def attention_calls(
    qkv: Tensor,
    position: Tensor,
    rope_row: Tensor,
    qk_norm: tuple[Tensor, Tensor] | None,
    cache: Tensor,
    out: Tensor,
    scratch: tuple[Tensor, Tensor, Tensor],
    *,
    eps: float,
    shape: AttentionShape,
    pdl: int,
) -> list[KernelCall]:
    """Attend from one token to a layer's cache [2, Hkv, max_len, D] by splits, appending it, and join the splits.

    Args:
        qkv: Raw heads, float32 [(H + 2 Hkv) * D].
        position: int32 [1].
        rope_row: Cosines, then signed sines of the position, float32 [2 * D].
        qk_norm: Weights of the norms of Q and K heads [D], or None.
        cache: Keys, then values.
        out: [H * D].
        scratch: Partials [H * splits * D], maxima and sums [H * splits], float32.
        eps: Of the QK norm.
        shape: Launch shape.
        pdl: Mode of programmatic dependent launch.
    """
    _, kv_heads, max_len, head_dim = cache.shape
    heads = out.numel() // head_dim
    common = {"D": head_dim, "SPLITS": shape.splits(max_len), "PDL": pdl}
    constants = {
        **common,
        "BLOCK_S": shape.block_s,
        "HKV": kv_heads,
        "GROUP": heads // kv_heads,
        "BLOCK_G": max(16, next_power_of_two(heads // kv_heads)),
        "MAX_LEN": max_len,
        "QK_NORM": qk_norm is not None,
        "EPS": eps,
        "SCALE": log2(euler) / head_dim**0.5,
        "DOT_TYPE": DOT_TYPE,
    }
    q_norm, k_norm = qk_norm or (qkv, qkv)
    args = (qkv, position, rope_row, q_norm, k_norm, cache[0], cache[1], *scratch)
    programs, reads = kv_heads * common["SPLITS"], _present(*(qk_norm or ()))
    attend = KernelCall("attention", attention_kernel, programs, args, constants, shape.warps, reads)
    common["BLOCK_SPLITS"] = next_power_of_two(common["SPLITS"])
    combine = KernelCall("combine", combine_kernel, heads, (*scratch, out), common, COMBINE_WARPS, ())
    return [attend, combine]


def embed_call(state: StepInput, table: Tensor, norm_weight: Tensor, rope: tuple[Tensor, Tensor]) -> KernelCall:
    """Make the token and position in device memory the input of a step.

    Args:
        state: What is read and written.
        table: Embedding [V, E].
        norm_weight: Of the first norm [E].
        rope: Cosines and sines, float32 [max_len, D / 2] each.
    """
    constants = _embedding_constants(state, table, rope)
    args = (state.token, state.position, table, norm_weight, *rope, *state.outputs())
    return KernelCall("embed", embed_kernel, 1, args, constants, 8, (table[0], norm_weight))


def sample_call(
    best_value: Tensor,
    best_token: Tensor,
    ring: Tensor,
    state: StepInput,
    table: Tensor,
    norm_weight: Tensor,
    rope: tuple[Tensor, Tensor],
    *,
    pdl: int,
) -> KernelCall:
    """Take the greedy token, move on by one position and make both the input of the next step."""
    constants = {
        "V": table.shape[0],
        "NUM_BEST": best_value.numel(),
        "CHUNK": min(SAMPLE_CHUNK, next_power_of_two(best_value.numel())),
        "RING": ring.numel(),
        **_embedding_constants(state, table, rope),
        "PDL": pdl,
    }
    args = (best_value, best_token, state.token, state.position, ring, table, norm_weight, *rope, *state.outputs())
    return KernelCall("sample", sample_kernel, 1, args, constants, 16, (table[0], norm_weight))


def _row_constants(w: Matrix, rows: int, sums: Tensor, eps: float, shape: RowShape, pdl: int) -> dict[str, Any]:
    columns = w.shape[-1]
    return {
        "N": rows,
        "K": columns,
        "EPS": eps,
        "NUM_SUMS": sums.numel(),
        # At least as many as the lanes load at once: see kernels.rows.newest.
        "BLOCK_SUMS": max(128 * shape.warps, next_power_of_two(sums.numel())),
        **_format_constants(w, shape),
        "BLOCK_N": shape.block_n,
        "BLOCK_K": next_power_of_two(columns),
        "LANES": 32 * shape.warps,
        "PDL": pdl,
    }


def _embedding_constants(state: StepInput, table: Tensor, rope: tuple[Tensor, Tensor]) -> dict[str, Any]:
    return {
        "E": table.shape[1],
        "BLOCK_E": next_power_of_two(table.shape[1]),
        "NUM_SUMS": state.sums.numel(),
        "BLOCK_SUMS": next_power_of_two(state.sums.numel()),
        "D": state.rope_row.numel() // 2,
        "MAX_LEN": rope[0].shape[0],
    }


def _format_constants(w: Matrix, shape: RowShape | ProjectionShape) -> dict[str, Any]:
    return {"FORMAT": format_name(w), "DOT": shape.dot}


def _buffer(w: Matrix) -> Tensor:
    return w if isinstance(w, Tensor) else w.words


def _present(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in tensors if tensor is not None)
