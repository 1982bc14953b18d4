"""The launches that make a token the input of a step, and the head's output a token."""

from dataclasses import dataclass
from typing import Any

import torch

from memfloor.engine.cuda.calls.kernel_call import KernelCall
from memfloor.engine.cuda.launch_shapes import next_power_of_two
from memfloor.engine.kernels.embed.triton import embed_kernel
from memfloor.engine.kernels.sample.triton import sample_kernel

Tensor = torch.Tensor
SAMPLE_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class StepInput:
    """Hold what one step starts from, in device memory.

    Attributes:
        token: int32 [1].
        position: Slot of the token, int32 [1].
        residual: The token's embedding, float32 [E].
        normed: The same times the first norm's weight, bf16 [E].
        sums: Partial sums of squares of the residual, float32.
        rope_row: Cosines, then sines of the position, float32 [D].
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


def _embedding_constants(state: StepInput, table: Tensor, rope: tuple[Tensor, Tensor]) -> dict[str, Any]:
    return {
        "E": table.shape[1],
        "BLOCK_E": next_power_of_two(table.shape[1]),
        "NUM_SUMS": state.sums.numel(),
        "BLOCK_SUMS": next_power_of_two(state.sums.numel()),
        "D": state.rope_row.numel(),
        "MAX_LEN": rope[0].shape[0],
    }
