"""The launch shapes that were fastest for one model on one device, scaled to other models and devices."""

from dataclasses import dataclass, replace
from typing import Any

from memfloor.engine.cuda.launch_shapes import (
    LOAD_BITS,
    WARP_LANES,
    AttentionShape,
    LaunchShapes,
    ProjectionShape,
    RowShape,
    next_power_of_two,
)
from memfloor.errors import UsageError
from memfloor.floor import projections
from memfloor.spec import ModelSpec, kv_format, weight_format

# What the registers of one program hold: of a row, of a head, and of the splits that are joined, 128 numbers a lane.
LONGEST_ROW, LARGEST_HEAD = 16384, 256
JOINED_NUMBERS = 16384


def default_shapes(
    spec: ModelSpec, sm_count: int, weights: str = "bf16", head: str = "bf16", kv: str = "bf16"
) -> LaunchShapes:
    """Return the shapes that were fastest for Qwen-2.5-7B on an H200, scaled to other rows.

    Args:
        spec: The model; the shorter its rows, the more of them a program holds.
        sm_count: Multiprocessors of the device.
        weights: Format of the attention and MLP weights.
        head: Format of the output head.
        kv: Format of the KV cache.

    Raises:
        UsageError: A row or a head is too long to be held by one program, or a row too short to be shared by its lanes.
    """
    problems = [refuse_model(spec), refuse_short_row(head, spec.hidden_size)]
    problems += [refuse_short_row(weights, columns) for _, columns in projections(spec).values()]
    for problem in filter(None, problems):
        raise UsageError(problem)
    cut = _Cut(spec, sm_count)
    shapes = LaunchShapes(**cut.layers(weights), attention=cut.attention(kv), head=cut.head(head)).fitted(spec)
    return shapes.shared(spec, weights, head)


def refuse_short_row(form: str, columns: int) -> str | None:
    """Say why a row of a matrix is too short for a format; None if it is not."""
    bits = weight_format(form).bits
    least = 0 if bits == 16 else LOAD_BITS * WARP_LANES // bits * 3 // 4
    if columns >= least:
        return None
    return f"rows of {columns} numbers are too short for {form} on a GPU, which needs {least}"


def refuse_model(spec: ModelSpec) -> str | None:
    """Say why programs cannot hold a model's rows or heads; None if they can."""
    if spec.hidden_size > LONGEST_ROW:
        return f"hidden_size {spec.hidden_size} is beyond the engine's {LONGEST_ROW}"
    if spec.head_dim > LARGEST_HEAD:
        return f"head_dim {spec.head_dim} is beyond the engine's {LARGEST_HEAD}"
    return None


@dataclass(frozen=True, slots=True)
class _Cut:
    """Cut a model's kernels so that registers hold what a program loads and no multiprocessor is left out."""

    spec: ModelSpec
    sm_count: int

    def attention(self, kv: str) -> AttentionShape:
        """Return the shape of attention: two blocks of keys and values are held at a time, and all joined splits.

        Where a block takes half the bytes there is room in the registers for one program more, to ask for as many.
        """
        kv_heads, head_dim = self.spec.num_key_value_heads, self.spec.head_dim
        programs_per_sm = 3 if kv_format(kv).bits == 8 else 2
        splits = min(programs_per_sm * self.sm_count // kv_heads, JOINED_NUMBERS // head_dim)
        return AttentionShape(block_s=64 if head_dim <= 128 else 32, max_splits=max(1, splits), warps=4)

    def layers(self, form: str) -> dict[str, Any]:
        """Return the shapes over the matrices of layers in a format."""
        named = {"bf16": self._words, "int8": self._bytes, "fp8": self._floats, "int4-g128": self._nibbles}
        return named[form]()

    def head(self, form: str) -> RowShape:
        """Return the shape over a head in a format."""
        if form == "bf16":
            return self._row_shape(32768, self.spec.vocab_size, 4)
        return self._row_shape(65536, self.spec.vocab_size, 8 if weight_format(form).bits == 8 else 4)

    def _words(self) -> dict[str, Any]:
        steps = _even(-(-self.spec.intermediate_size // 2048), 10)
        # No more than 80 words a lane.
        block_n = self._rows(min(4, 20 // steps), self.spec.hidden_size)
        # Few registers let programs in early; they must hold what is loaded before the wait.
        registers = 80 if block_n * min(steps, 5) <= 10 else 128
        down = ProjectionShape(block_n, 2048, steps, warps=8, registers=registers, ahead=5)
        attended = self._attended
        o_proj = ProjectionShape(
            block_n=self._rows(4, self.spec.hidden_size),
            block_k=min(next_power_of_two(attended), 1024),
            steps=_even(-(-attended // 1024), 4),
            warps=4,
            registers=64,
        )
        gate_up = replace(self._gate_up(8192), registers=128)
        return {"qkv": self._qkv(4096), "o_proj": o_proj, "gate_up": gate_up, "down_proj": down}

    def _bytes(self) -> dict[str, Any]:
        down = self._projection(8, self.spec.intermediate_size, 2048, steps=2, warps=4)
        return {
            "qkv": replace(self._qkv(16384), registers=96),
            "o_proj": self._projection(16, self._attended, 2048, steps=2, warps=4, ahead=2),
            "gate_up": replace(self._gate_up(16384), registers=168),
            "down_proj": replace(down, registers=80),
        }

    def _floats(self) -> dict[str, Any]:
        return {
            "qkv": self._qkv(8192),
            "o_proj": self._projection(16, self._attended, 2048, steps=2, warps=4, ahead=2),
            "gate_up": self._gate_up(8192, warps=1),
            "down_proj": self._projection(8, self.spec.intermediate_size, 2048, steps=1, warps=2),
        }

    def _nibbles(self) -> dict[str, Any]:
        return {
            "qkv": self._qkv(32768),
            "o_proj": self._projection(8, self._attended, 4096, steps=1, warps=2),
            "gate_up": self._gate_up(32768),
            "down_proj": self._projection(16, self.spec.intermediate_size, 4096, steps=1, warps=4),
        }

    @property
    def _attended(self) -> int:
        return self.spec.num_attention_heads * self.spec.head_dim

    def _qkv(self, numbers: int) -> RowShape:
        keys = self.spec.num_key_value_heads * self.spec.head_dim
        return self._row_shape(numbers, (self._attended + 2 * keys) // 2, 4)

    def _gate_up(self, numbers: int, warps: int = 4) -> RowShape:
        return self._row_shape(numbers, self.spec.intermediate_size, warps)

    def _row_shape(self, numbers: int, rows: int, warps: int) -> RowShape:
        """Give a program so many numbers of a matrix of some rows; of longer rows it takes one, with more warps."""
        row = next_power_of_two(self.spec.hidden_size)
        return RowShape(self._rows(min(numbers // row, 32), rows), warps * max(1, row // numbers))

    def _projection(
        self, block_n: int, columns: int, block_k: int, *, steps: int, warps: int, ahead: int = 1
    ) -> ProjectionShape:
        """Take a step, or half a block of K, where more than a quarter of the lanes would meet no weights."""
        block_k = min(next_power_of_two(columns), block_k)
        shape = ProjectionShape(block_n, block_k, steps, warps, ahead=ahead).fitted(columns)
        if _covered(shape, columns) * 3 > 4 * columns:
            shape = replace(shape, steps=1, ahead=1)
        if _covered(shape, columns) * 3 > 4 * columns:
            shape = replace(shape, block_k=shape.block_k // 2)
        return replace(shape, block_n=self._rows(block_n, self.spec.hidden_size * shape.splits(columns)))

    def _rows(self, wanted: int, rows: int) -> int:
        """Return the greatest power of two that is no more than wanted and gives every multiprocessor a program."""
        return 1 << max(0, min(wanted, rows // self.sm_count).bit_length() - 1)


def _covered(shape: ProjectionShape, columns: int) -> int:
    return shape.splits(columns) * shape.steps * shape.block_k


def _even(blocks: int, most: int) -> int:
    """Return how many of the blocks of K a program takes, no more than `most`, so that all take as many."""
    return -(-blocks // -(-blocks // most))
