"""Attention of a step alone on a CPU: the native operation of each layer and the join of its parts, in one call."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfloor.engine.cpu.native import bound_to, native
from memfloor.spec import ModelSpec

# Rows of the projection that the join of attention's parts is fused with: the fewest a tile holds.
JOIN_ROWS = 16

Float32 = NDArray[np.float32]


class CpuAttention:
    """Attend from one token in every layer of a native KV cache, which holds the token itself in its last slot.

    In a decode step the join of a layer's parts is the first thing its output projection does, each thread for itself;
    here that projection has as few rows as can be. Queries are taken as they come: not normed, not rotated.
    """

    def __init__(self, spec: ModelSpec, context_len: int, isa: str, pool: Any) -> None:
        """Allocate the cache.

        Args:
            spec: The model, at batch 1.
            context_len: Slots that are attended to, the token's own included.
            isa: Instruction set, one of the native module's `usable_isas`.
            pool: Native pool whose threads run the step.
        """
        self.spec, self.context_len, self.isa, self.pool = spec, context_len, isa, pool
        kv_heads, head_dim = spec.num_key_value_heads, spec.head_dim
        self.cache = native().KVCache("bf16", spec.num_hidden_layers, kv_heads, context_len, head_dim)
        self._token: Float32 | None = None
        self._step: Any = None

    def fill(self, layer: int, keys: Float32, values: Float32) -> None:
        """Write the last slots of a layer, [Hkv, S, D] each."""
        first = self.context_len - keys.shape[1]
        for head in range(keys.shape[0]):
            contiguous = (np.ascontiguousarray(part[head]) for part in (keys, values))
            self.cache.write(layer, head, first, *contiguous)

    def start(self, query: Float32, key: Float32, value: Float32) -> None:
        """Make a token's query [H, D], key and value [Hkv, D] those of every layer, and build the step."""
        self._token = np.concatenate([query.ravel(), key.ravel(), value.ravel()])
        self._step = self._native_step(JOIN_ROWS, self.spec.num_hidden_layers, np.zeros)

    def issue(self) -> None:
        """Attend in every layer and return when all threads have ended."""
        self._run(self._step)

    def first_output(self) -> Float32:
        """Return what the first layer gives, float32 [H * D], joined by a projection that changes nothing."""
        query = self.spec.num_attention_heads * self.spec.head_dim
        step = self._native_step(query, 1, lambda shape, dtype: np.eye(*shape, dtype=np.float32))
        self._run(step)
        return np.array(step.residual)

    def _run(self, step: Any) -> None:
        # A prompt of one token: everything before the head, in one native call, at the slot it is given.
        with bound_to(self.pool.cpus[0]):
            step.prefill([0], self.context_len - 1)

    def _native_step(self, rows: int, layers: int, numbers: Any) -> Any:
        spec = self.spec
        query = spec.num_attention_heads * spec.head_dim
        step = native().Step(
            self.isa,
            self.pool,
            hidden=rows,
            intermediate=rows,
            heads=spec.num_attention_heads,
            kv_heads=spec.num_key_value_heads,
            head_dim=spec.head_dim,
            vocab=1,
            max_len=self.context_len,
            eps=spec.rms_norm_eps,
        )
        angles = self.context_len * spec.head_dim // 2
        step.set_rope(np.ones(angles, np.float32), np.zeros(angles, np.float32))
        join = self._matrix(rows, query, numbers)
        for layer in range(layers):
            step.add_attention(self.cache, layer, spec.window_of(layer), None, None)
            step.add_output(join, None)
        embedding = self._matrix(1, rows, np.zeros)
        # Never run: a step needs them to be whole.
        step.add_head(embedding, np.zeros(rows, np.uint16))
        step.add_sample(embedding)
        assert self._token is not None
        step.qkv[:] = self._token
        return step

    def _matrix(self, rows: int, columns: int, numbers: Any) -> Any:
        matrix = native().Matrix("bf16", rows, columns)
        matrix.write_float(numbers((rows, columns), np.float32).ravel(), 0, 1, self.pool)
        return matrix
