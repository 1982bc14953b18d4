"""A model as a plan on a CPU: native operations over buffers that are allocated once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from memfloor.engine.cpu.native import bound_to, native
from memfloor.engine.cpu.weights import LayerWeights, ModelWeights
from memfloor.engine.plan import Plan
from memfloor.engine.rope import rope_table
from memfloor.engine.tensors import Bits
from memfloor.errors import UsageError
from memfloor.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class NativeCall:
    """Run one native operation on all threads.

    Attributes:
        op: Name of the operation.
        launch: Runs it.
        read_bytes: Bytes of weights it reads from memory.
    """

    op: str
    launch: Callable[[], None]
    read_bytes: int

    def issue(self) -> None:
        """Run the operation and return when all threads have ended."""
        self.launch()


@dataclass(frozen=True, slots=True)
class BoundPlan(Plan):
    """Run the operations of a step one by one, this thread bound to the first CPU of the pool meanwhile."""

    cpu: int

    def issue(self) -> None:
        """Run the step and return when all threads have ended."""
        with bound_to(self.cpu):
            Plan.issue(self)


@dataclass(frozen=True, slots=True)
class ReplayedPlan:
    """Run all operations of a number of steps in one native call, this thread bound as for a step one by one."""

    step: Any
    steps: int
    cpu: int

    def issue(self) -> None:
        """Run the steps and return when all threads have ended."""
        with bound_to(self.cpu):
            self.step.run_all(self.steps)


class CpuModel:
    """Own every buffer of a batch-1 decode step on a CPU and the plan over them; nothing is allocated in a step."""

    def __init__(self, spec: ModelSpec, weights: ModelWeights, cache: Any, max_len: int, isa: str, pool: Any) -> None:
        """Build the plan.

        Args:
            spec: The model.
            weights: Packed weights.
            cache: Native KV cache of `max_len` slots.
            max_len: Slots of the KV cache.
            isa: Instruction set, one of the native module's `usable_isas`.
            pool: Native pool whose threads run the step.
        """
        self.spec, self.weights, self.cache, self.max_len = spec, weights, cache, max_len
        self.isa, self.pool = isa, pool
        # The thread that calls a pool is its first one.
        self._cpu = pool.cpus[0]
        self.native_step = native().Step(
            isa,
            pool,
            hidden=spec.hidden_size,
            intermediate=spec.intermediate_size,
            heads=spec.num_attention_heads,
            kv_heads=spec.num_key_value_heads,
            head_dim=spec.head_dim,
            vocab=spec.vocab_size,
            max_len=max_len,
            eps=spec.rms_norm_eps,
        )
        self.native_step.set_rope(*rope_table(spec, max_len))
        self._calls: list[NativeCall] = []
        for index, layer in enumerate(weights.layers):
            self._add_layer(index, layer)
        self._add_output()
        self.plan = BoundPlan(tuple(self._calls), self._cpu)

    def start(self, token: int, position: int) -> None:
        """Make `token`, at slot `position`, the input of the next step."""
        self.native_step.start(token, position)

    def prefill(self, tokens: Sequence[int], replayed: bool = False) -> None:
        """Fill the first slots of the cache with a prompt, token by token and without logits; one launch in any case.

        A prompt goes through the decode kernels, one read of the layers' weights per token: exact, and slow.
        """
        with bound_to(self._cpu):
            self.native_step.prefill(list(tokens), 0)

    def sample_with(self, temperature: float, top_p: float = 1.0, seed: int = 0) -> None:
        """Choose how tokens are drawn from now on; a draw depends on seed and position alone.

        Args:
            temperature: 0 takes the likeliest token.
            top_p: Draw from the smallest set of likeliest tokens whose probabilities reach this.
            seed: Of the draws.

        Raises:
            UsageError: The temperature is negative or top_p is not above 0 and at most 1.
        """
        if not 0 <= temperature < math.inf:
            raise UsageError(f"temperature must be 0 or more and finite, not {temperature}")
        if not 0 < top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1, not {top_p}")
        self.native_step.set_sampling(temperature, top_p, seed)

    def capture(self, steps: int) -> ReplayedPlan:
        """Return the plan as one native call of `steps` steps."""
        return ReplayedPlan(self.native_step, steps, self._cpu)

    def timed_step(self) -> list[float]:
        """Take one step like a replay and return the seconds of each of the plan's operations, in order.

        An operation ends where the last thread meets the others. The clock is read once per operation.
        """
        with bound_to(self._cpu):
            seconds: list[float] = self.native_step.run_timed(1)
        return seconds

    def timed_eager_step(self) -> list[float]:
        """Take one step operation by operation from Python and return the seconds of each, without the calls between.

        An operation begins where this thread begins with it, and ends where all threads have.
        """
        with bound_to(self._cpu):
            return [self.native_step.run_timed_one(index) for index in range(len(self._calls))]

    def ring(self) -> list[int]:
        """Return the last tokens, each at its slot modulo `RING_LEN`."""
        tokens: list[int] = self.native_step.ring.tolist()
        return tokens

    def logits_bytes(self) -> bytes:
        """Return the last step's logits, float32 [V], as they lie in memory."""
        logits: bytes = self.native_step.logits.tobytes()
        return logits

    def facts(self) -> dict[str, str]:
        """Return the instruction set and the number of threads."""
        return {"isa": self.isa, "pool_threads": str(self.pool.size), "residual_dtype": "float32"}

    def _add_layer(self, index: int, layer: LayerWeights) -> None:
        step = self.native_step
        self._add(
            "qkv",
            step.add_qkv(layer.qkv, layer.input_norm, layer.qkv_bias),
            layer.qkv,
            layer.input_norm,
            layer.qkv_bias,
        )
        self._add(
            "attention",
            step.add_attention(self.cache, index, self.spec.window_of(index), layer.q_norm, layer.k_norm),
            None,
            layer.q_norm,
            layer.k_norm,
        )
        self._add("o_proj", step.add_output(layer.o_proj, layer.o_bias), layer.o_proj, layer.o_bias)
        self._add(
            "gate_up",
            step.add_gate_up(layer.gate_up, layer.post_norm, layer.gate_up_bias),
            layer.gate_up,
            layer.post_norm,
            layer.gate_up_bias,
        )
        self._add("down_proj", step.add_down(layer.down_proj, layer.down_bias), layer.down_proj, layer.down_bias)

    def _add_output(self) -> None:
        step, weights = self.native_step, self.weights
        self._add("head", step.add_head(weights.head, weights.final_norm), weights.head, weights.final_norm)
        # One row of the embedding, in bf16.
        self._calls.append(self._call("sample", step.add_sample(weights.embedding), 2 * self.spec.hidden_size))

    def _add(self, op: str, index: int, matrix: Any, *vectors: Bits | None) -> None:
        matrix_bytes = 0 if matrix is None else matrix.size_bytes
        read = matrix_bytes + sum(vector.nbytes for vector in vectors if vector is not None)
        self._calls.append(self._call(op, index, read))

    def _call(self, op: str, index: int, read_bytes: int) -> NativeCall:
        run = self.native_step.run
        return NativeCall(op, lambda: run(index), read_bytes)
