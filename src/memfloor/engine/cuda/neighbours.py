"""Launch shapes next to one: each differs in one number, or holds the same by more or fewer lanes."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from memfloor.engine.cuda.default_shapes import JOINED_NUMBERS
from memfloor.engine.cuda.launch_shapes import (
    AttentionShape,
    LaunchShapes,
    ProjectionShape,
    RowShape,
    most_warps,
    next_power_of_two,
)
from memfloor.spec import ModelSpec, Workload, kv_format, weight_format

# The order in which they are tuned: by the bytes that they read.
OPS = ("gate_up", "down_proj", "head", "qkv", "o_proj", "attention")
Shape = RowShape | ProjectionShape | AttentionShape
# Words that a lane may hold of what a program loads, beyond which it spills and takes minutes to compile, and registers
# that it needs beside them.
LANE_WORDS, OTHER_REGISTERS = 128, 32
FEWEST_COLUMNS, MOST_COLUMNS = 256, 8192
# Per lane, at most.
REGISTERS = (None, 64, 80, 96, 128, 168)


def neighbours(shapes: LaunchShapes, op: str, spec: ModelSpec, workload: Workload) -> list[LaunchShapes]:
    """Return the shapes that differ in one operation, next to its own, that run and do not spill.

    Args:
        shapes: Fitted to the model.
        op: One of `OPS`.
        spec: The model.
        workload: Formats of weights, head and KV cache.
    """
    shape: Shape = getattr(shapes, op)
    found = []
    for other in dict.fromkeys(_next_to(shape)):
        cut = _with(shapes, op, other)
        if other != shape and cut.fitted(spec) == cut and _can_be_held(op, other, spec, workload):
            found.append(cut)
    return found


def _with(shapes: LaunchShapes, op: str, shape: Any) -> LaunchShapes:
    return replace(shapes, **{op: shape})


def _next_to(shape: Shape) -> Iterator[Shape]:
    for warps in {max(1, shape.warps // 2), min(16, shape.warps * 2)}:
        yield replace(shape, warps=warps)
    if isinstance(shape, AttentionShape):
        yield from _attention(shape)
    elif isinstance(shape, ProjectionShape):
        yield from _projection(shape)
    else:
        yield from _rows(shape)


def _rows(shape: RowShape) -> Iterator[RowShape]:
    for registers in REGISTERS:
        yield replace(shape, registers=registers)
    for block_n in {max(1, shape.block_n // 2), shape.block_n * 2}:
        yield replace(shape, block_n=block_n)
        yield replace(shape, block_n=block_n, warps=max(1, min(16, shape.warps * block_n // shape.block_n)))


def _projection(shape: ProjectionShape) -> Iterator[ProjectionShape]:
    for registers in REGISTERS:
        yield replace(shape, registers=registers)
    for ahead in range(shape.steps + 1):
        yield replace(shape, ahead=ahead)
    for block_n in {max(1, shape.block_n // 2), shape.block_n * 2}:
        yield replace(shape, block_n=block_n)
    for block_k in (shape.block_k // 2, shape.block_k * 2):
        if FEWEST_COLUMNS <= block_k <= MOST_COLUMNS:
            yield replace(shape, block_k=block_k)
            steps = max(1, shape.steps * shape.block_k // block_k)
            yield replace(shape, block_k=block_k, steps=steps, ahead=min(shape.ahead, steps))
    for steps in (-(-shape.steps // 2), shape.steps * 2):
        yield replace(shape, steps=steps, ahead=min(shape.ahead, steps))


def _attention(shape: AttentionShape) -> Iterator[AttentionShape]:
    for max_splits in {max(1, shape.max_splits // 2), shape.max_splits * 2 // 3, shape.max_splits * 3 // 2}:
        yield replace(shape, max_splits=max(1, max_splits))
    for block_s in (shape.block_s // 2, shape.block_s * 2):
        if block_s >= 16:
            yield replace(shape, block_s=block_s)
            yield replace(shape, block_s=block_s, warps=max(1, min(16, shape.warps * block_s // shape.block_s)))


def _can_be_held(op: str, shape: Shape, spec: ModelSpec, workload: Workload) -> bool:
    """Tell whether registers hold what a program loads at a time, and of attention's splits what is joined."""
    limit = LANE_WORDS
    if isinstance(shape, AttentionShape):
        if next_power_of_two(shape.max_splits) * spec.head_dim > JOINED_NUMBERS:
            return False
        # Keys and values of one block, and of the next.
        numbers, bits = 4 * shape.block_s * spec.head_dim, kv_format(workload.kv).bits
    else:
        form = workload.head if op == "head" else workload.weights
        block_k = shape.block_k if isinstance(shape, ProjectionShape) else next_power_of_two(spec.hidden_size)
        if shape.warps > most_warps(form, block_k):
            return False
        bits = weight_format(form).bits
        numbers = _numbers(op, shape, spec)
        limit = min(limit, (shape.registers or 255) - OTHER_REGISTERS)
    return numbers * bits <= limit * 32 * 32 * shape.warps


def _numbers(op: str, shape: RowShape | ProjectionShape, spec: ModelSpec) -> int:
    """Return the weights that a program holds at a time."""
    if isinstance(shape, ProjectionShape):
        return shape.block_n * shape.block_k * max(1, shape.ahead)
    halves = 1 if op == "head" else 2
    return halves * shape.block_n * next_power_of_two(spec.hidden_size)
