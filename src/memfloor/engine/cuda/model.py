"""A model as a plan: its buffers, allocated once, and the kernel calls of one step over them."""

import math
from collections.abc import Sequence
from dataclasses import fields

import torch

from memfloor.engine.cuda.calls import (
    Draws,
    Heads,
    KernelCall,
    StepInput,
    attention_calls,
    embed_call,
    gate_up_call,
    head_call,
    projection_call,
    qkv_call,
    sample_call,
)
from memfloor.engine.cuda.graph import CapturedPlan
from memfloor.engine.cuda.kv_cache import allocate_cache
from memfloor.engine.cuda.launch_shapes import LaunchShapes, ProjectionShape
from memfloor.engine.cuda.matrix import format_name
from memfloor.engine.cuda.prefill import Prompt
from memfloor.engine.cuda.weights import LayerWeights, ModelWeights
from memfloor.engine.kernels.dependency import MODES
from memfloor.engine.plan import RING_LEN, Plan
from memfloor.engine.rope import rope_table
from memfloor.errors import UsageError
from memfloor.spec import ModelSpec

SHAPED_OPS = tuple(field.name for field in fields(LaunchShapes) if field.name != "origin")
PDL_NAMES = {mode: name for name, mode in MODES.items()}


class DecodeModel:
    """Own every buffer of a batch-1 decode step and the plan over them; nothing is allocated in a step.

    The residual stream is float32: at batch 1 it costs nothing. Token and position live in device memory, so
    the plan is valid for every position of the cache.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: ModelWeights,
        max_len: int,
        shapes: LaunchShapes,
        pdl: int,
        kv: str = "bf16",
    ) -> None:
        """Allocate the buffers and build the plan.

        Args:
            spec: The model.
            weights: Packed weights; their device is the engine's.
            max_len: Slots of the KV cache.
            shapes: Launch shape of every kernel; `shapes` of the model are those that run.
            pdl: Mode of programmatic dependent launch, from `kernels.dependency`.
            kv: Format of the KV cache, bf16 or fp8.
        """
        self.spec, self.weights, self.max_len = spec, weights, max_len
        self.shapes, self.pdl = shapes.fitted(spec), pdl
        self.device = weights.embedding.device
        self._allocate_activations()
        self._allocate_scratch()
        self.cache = allocate_cache(spec, max_len, self.device, kv)
        self.rope = device_rope(spec, max_len, self.device)
        self.prompt = Prompt(spec, weights, self.cache, self.rope)
        self.input = StepInput(
            self.token, self.position, self.residual, self.normed, self.down_sums, self._float32(spec.head_dim)
        )
        self.embed = embed_call(self.input, weights.embedding, weights.layers[0].input_norm, self.rope)
        self.draws: Draws | None = None
        self.plan = Plan(self._calls())

    def start(self, token: int, position: int) -> None:
        """Make `token`, at slot `position`, the input of the next step."""
        self.token.fill_(token)
        self.position.fill_(position)
        self.embed.issue()

    def prefill(self, tokens: Sequence[int], replayed: bool = False) -> None:
        """Fill the first slots of the cache with a prompt, chunk by chunk and without logits; see `Prompt`."""
        self.prompt.fill(tokens, replayed)

    def sample_with(self, temperature: float, seed: int = 0) -> None:
        """Choose how tokens are drawn by what is captured from now on; a draw depends on seed and position alone.

        Args:
            temperature: 0 takes the likeliest token.
            seed: Of the draws, 0 to 2**31 - 1.

        Raises:
            UsageError: The temperature is negative or not finite, or the seed is out of range.
        """
        if not 0 <= temperature < math.inf:
            raise UsageError(f"temperature must be 0 or more and finite, not {temperature}")
        if not 0 <= seed < 2**31:
            raise UsageError(f"seed must be 0 to {2**31 - 1}, not {seed}")
        self.draws = Draws(self.position, temperature, seed) if temperature else None
        self.plan = Plan(self._calls())

    def capture(self, steps: int) -> CapturedPlan:
        """Return the plan as a CUDA Graph of `steps` steps."""
        # One step compiles every kernel; it writes slot 0, so the caller's cache is put back.
        slot = self.cache[:, :, :, 0].clone()
        self.start(0, 0)
        self.plan.issue()
        torch.cuda.synchronize(self.device)
        self.cache[:, :, :, 0].copy_(slot)
        return CapturedPlan(self.plan, steps)

    def ring(self) -> list[int]:
        """Return the last tokens, each at its slot modulo `RING_LEN`; waits for the device."""
        tokens: list[int] = self.produced.tolist()
        return tokens

    def logits_bytes(self) -> bytes:
        """Return the last step's logits, float32 [V], as they lie in memory; waits for the device."""
        return self.logits.cpu().numpy().tobytes()

    def facts(self) -> dict[str, str]:
        """Return the types of the buffers, the launch shapes and where they are from, and the overlap of launches."""
        return {
            "pdl": PDL_NAMES[self.pdl],
            "weights_format": format_name(self.weights.layers[0].qkv),
            "head_format": format_name(self.weights.head),
            "kv_dtype": str(self.cache.dtype),
            "residual_dtype": str(self.residual.dtype),
            "shapes": self.shapes.origin,
            **{f"shape_{op}": str(getattr(self.shapes, op)) for op in SHAPED_OPS},
        }

    def _allocate_activations(self) -> None:
        spec = self.spec
        query = spec.num_attention_heads * spec.head_dim
        self.token, self.position = self._int32(1), self._int32(1)
        self.produced = self._int32(RING_LEN)
        self.residual = self._float32(spec.hidden_size)
        self.normed = self._bfloat16(spec.hidden_size)
        keys = spec.num_key_value_heads * spec.head_dim
        squares = self._float32((query + keys) // 2) if spec.qk_norm else None
        self.heads = Heads(self._float32(query + 2 * keys), squares, spec.num_key_value_heads, spec.head_dim)
        self.attended = self._bfloat16(query)
        self.joined = self._bfloat16(spec.intermediate_size)
        self.logits = self._float32(spec.vocab_size)

    def _allocate_scratch(self) -> None:
        spec, shapes = self.spec, self.shapes
        splits = shapes.attention.splits(self.max_len)
        rows = spec.num_attention_heads * splits
        self.attention_scratch = (
            self._float32(rows * spec.head_dim),
            self._float32(rows),
            self._float32(rows),
        )
        query = spec.num_attention_heads * spec.head_dim
        self.o_sums, self.o_scratch = self._projection_scratch(shapes.o_proj, query)
        self.down_sums, self.down_scratch = self._projection_scratch(shapes.down_proj, spec.intermediate_size)
        programs = shapes.head.programs(spec.vocab_size)
        self.best_value, self.best_token = self._float32(programs), self._int32(programs)

    def _projection_scratch(
        self, shape: ProjectionShape, columns: int
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        tiles = -(-self.spec.hidden_size // shape.block_n)
        partial = self._float32(shape.splits(columns) * self.spec.hidden_size)
        return self._float32(tiles), (partial, self._int32(tiles))

    def _calls(self) -> list[KernelCall]:
        layers = self.weights.layers
        # The projection that ends a layer prepares the norm that starts the next.
        next_norms = [layer.input_norm for layer in layers[1:]] + [self.weights.final_norm]
        calls = []
        for index, (layer, next_norm) in enumerate(zip(layers, next_norms, strict=True)):
            calls += self._attention_calls(index, layer) + self._mlp_calls(layer, next_norm)
        return calls + self._output_calls()

    def _attention_calls(self, index: int, layer: LayerWeights) -> list[KernelCall]:
        eps, shapes = self.spec.rms_norm_eps, self.shapes
        qkv = qkv_call(
            self.normed,
            self.down_sums,
            layer.qkv,
            layer.qkv_bias,
            layer.qk_norm,
            self.input.rope_row,
            self.heads,
            eps=eps,
            shape=shapes.qkv,
            pdl=self.pdl,
        )
        attention = attention_calls(
            self.heads,
            self.position,
            self.cache[index],
            self.attended,
            self.attention_scratch,
            eps=eps,
            shape=shapes.attention,
            pdl=self.pdl,
            window=self.spec.window_of(index),
        )
        o_proj = projection_call(
            self.attended,
            layer.o_proj,
            layer.o_bias,
            self.residual,
            layer.post_norm,
            self.normed,
            self.o_sums,
            *self.o_scratch,
            shape=shapes.o_proj,
            pdl=self.pdl,
        )
        return [qkv, *attention, o_proj]

    def _mlp_calls(self, layer: LayerWeights, next_norm: torch.Tensor) -> list[KernelCall]:
        gate_up = gate_up_call(
            self.normed,
            self.o_sums,
            layer.gate_up,
            self.joined,
            eps=self.spec.rms_norm_eps,
            shape=self.shapes.gate_up,
            pdl=self.pdl,
        )
        down_proj = projection_call(
            self.joined,
            layer.down_proj,
            None,
            self.residual,
            next_norm,
            self.normed,
            self.down_sums,
            *self.down_scratch,
            shape=self.shapes.down_proj,
            pdl=self.pdl,
        )
        return [gate_up, down_proj]

    def _output_calls(self) -> list[KernelCall]:
        weights = self.weights
        head = head_call(
            self.normed,
            self.down_sums,
            weights.head,
            self.logits,
            self.best_value,
            self.best_token,
            draws=self.draws,
            eps=self.spec.rms_norm_eps,
            shape=self.shapes.head,
            pdl=self.pdl,
        )
        sample = sample_call(
            self.best_value,
            self.best_token,
            self.produced,
            self.input,
            weights.embedding,
            weights.layers[0].input_norm,
            self.rope,
            pdl=self.pdl,
        )
        return [head, sample]

    def _float32(self, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.float32, device=self.device)

    def _bfloat16(self, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.bfloat16, device=self.device)

    def _int32(self, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.int32, device=self.device)


def device_rope(spec: ModelSpec, max_len: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosines and sines of every position on a device, float32 [max_len, D / 2] each."""
    cosines, sines = rope_table(spec, max_len)
    return torch.from_numpy(cosines).to(device), torch.from_numpy(sines).to(device)
