"""Say what each kernel of a step is: its module, layer and role, and the bytes it must read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from memfloor.errors import UsageError
from memfloor.floor import matrix_format, projections, step_traffic
from memfloor.record import Role
from memfloor.spec import ModelSpec, Workload, weight_format
from memfloor.trace.steps import CACHE_UPDATE, Kernel

LAYER = re.compile(r"\blayers\.(\d+)")
# Operators that multiply by a matrix of weights.
PRODUCTS = re.compile(r"aten::(mm|bmm|addmm|matmul|linear|mv|addmv)$|mkldnn_linear|linear_pointwise")
# The same of quantised weights, by the names that libraries give them.
QUANTIZED_PRODUCTS = re.compile(
    PRODUCTS.pattern + r"|pack_?mm|_mm(_|$)|\dmm_|gem[mv]|linear_matmul|linear_exl3|marlin|qlinear", re.IGNORECASE
)
DEQUANTIZES = re.compile(r"dequant|unpack", re.IGNORECASE)
ATTENTION = re.compile(r"scaled_dot_product|flash_attention|efficient_attention|cudnn_attention")
COPIES = re.compile(r"aten::(clone|contiguous|index_copy_|index_put_|_index_put_impl_)$")
# Libraries choose between variants of a kernel, by the context for one; more than a few differences are another path.
DIFFERENT_SHARE = 0.05
# What a kernel's own name tells where nothing else is known of it.
NAMES: tuple[tuple[re.Pattern[str], Role], ...] = (
    (re.compile(r"sdpa|flash|fmha|attention", re.IGNORECASE), "attention"),
    (re.compile(r"nvjet|gemm|gemv|splitkreduce|cutlass|_mm_|_addmm", re.IGNORECASE), "weights"),
    (re.compile(r"argmax|sampl", re.IGNORECASE), "sampling"),
)
# Operations of the engine's plans.
PLAN_ROLES: dict[str, Role] = {
    "attention": "attention",
    "combine": "attention",
    "sample": "sampling",
    "embed": "sampling",
}


@dataclass(frozen=True, slots=True)
class Label:
    """Say what one kernel of a step is; the fields are those of a `TracedKernel`."""

    op: str
    role: Role
    scope: str = ""
    layer: int | None = None
    read_bytes: int = 0


def label_by_plan(
    kernels: int, ops: Sequence[str], read_bytes: Sequence[int], spec: ModelSpec, workload: Workload
) -> list[Label]:
    """Label the kernels of a plan, which are its calls in order.

    Args:
        kernels: Kernels of a traced step.
        ops: Operation of each call.
        read_bytes: Bytes of weights that each call reads.
        spec: The model.
        workload: What was decoded.

    Raises:
        UsageError: The trace has not one kernel per call.
    """
    if kernels != len(ops):
        raise UsageError(f"the plan has {len(ops)} calls and the trace {kernels} kernels: another path was taken")
    seen: dict[str, int] = {}
    labels = []
    for op, weights in zip(ops, read_bytes, strict=True):
        nth, times = seen.setdefault(op, 0), ops.count(op)
        seen[op] += 1
        layer = nth * spec.num_hidden_layers // times if times >= spec.num_hidden_layers else None
        # The first part of attention reads keys and values, a second part joins what it found.
        read = kv_layer_bytes(spec, workload, layer or 0) if op == "attention" else weights
        labels.append(Label(op, PLAN_ROLES.get(op, "weights"), op, layer, read))
    return labels


def label_by_modules(
    kernels: Sequence[Kernel], labelled: Sequence[Kernel], spec: ModelSpec, workload: Workload
) -> list[Label]:
    """Label kernels by the same kernels of a trace whose modules were annotated.

    Args:
        kernels: The step to label.
        labelled: The same step with modules annotated; its times do not matter.
        spec: The model.
        workload: What was decoded.

    Raises:
        UsageError: The two steps ran different kernels.
    """
    if len(kernels) != len(labelled):
        raise UsageError(f"one trace has {len(kernels)} kernels a step, the one with modules {len(labelled)}")
    pairs = zip(kernels, labelled, strict=True)
    different = [(ours, theirs) for ours, theirs in pairs if ours.name.split("<")[0] != theirs.name.split("<")[0]]
    if len(different) > DIFFERENT_SHARE * len(kernels):
        ours, theirs = (kernel.name[:80] for kernel in different[0])
        raise UsageError(f"{len(different)} kernels differ between two traces, the first is {ours} and {theirs}")
    labels = [_module_label(kernel, workload) for kernel in labelled]
    return _with_bytes(labels, [kernel.seconds for kernel in kernels], spec, workload)


def label_by_names(kernels: Sequence[Kernel]) -> list[Label]:
    """Label kernels by their own names alone: a role, no module, no layer, no bytes."""
    return [Label(kernel.ops[-1] if kernel.ops else "", _named_role(kernel.name)) for kernel in kernels]


def kv_layer_bytes(spec: ModelSpec, workload: Workload, layer: int) -> int:
    """Return the bytes of keys and values that attention of one layer reads in a step."""
    slides = layer >= spec.num_hidden_layers - spec.num_sliding_layers
    one = spec.model_copy(update={"num_hidden_layers": 1, "num_sliding_layers": int(slides)})
    return step_traffic(one, workload, "blocks").kv_read


def _module_label(kernel: Kernel, workload: Workload) -> Label:
    found = LAYER.search(kernel.scope)
    layer = int(found.group(1)) if found else None
    return Label(kernel.ops[-1] if kernel.ops else "", _role(kernel, workload), kernel.scope, layer)


def _role(kernel: Kernel, workload: Workload) -> Role:
    ops, scope = kernel.ops, kernel.scope
    if scope.endswith(("_proj", "lm_head")):
        format_name = workload.head if scope.endswith("lm_head") else workload.weights
        if weight_format(format_name).is_quantized:
            return _quantized_role(ops)
    if any(ATTENTION.search(op) for op in ops):
        return "attention"
    if scope.endswith(CACHE_UPDATE) or (scope.endswith("attn") and any(COPIES.search(op) for op in ops)):
        return "cache"
    if any(PRODUCTS.search(op) for op in ops) and scope.endswith(("_proj", "lm_head")):
        return "weights"
    return "sampling" if any("argmax" in op for op in ops) else "elementwise"


def _quantized_role(ops: Sequence[str]) -> Role:
    """Return the role of a kernel of a quantised matrix: all that does not multiply is dequantisation.

    What multiplies is told by the innermost operator, since all of it may lie in one that is called a product.
    """
    if any(DEQUANTIZES.search(op) for op in ops):
        return "dequantization"
    return "weights" if ops and QUANTIZED_PRODUCTS.search(ops[-1]) else "dequantization"


def _named_role(name: str) -> Role:
    return next((role for pattern, role in NAMES if pattern.search(name)), "elementwise")


def _with_bytes(labels: Sequence[Label], seconds: Sequence[float], spec: ModelSpec, workload: Workload) -> list[Label]:
    """Give the bytes of a matrix, or of a layer's keys and values, to the longest of the kernels that share them."""
    longest: dict[tuple[str, str], int] = {}
    for index, label in enumerate(labels):
        key = (label.role, label.scope)
        if label.role in ("weights", "attention") and seconds[index] > seconds[longest.setdefault(key, index)]:
            longest[key] = index
    result = list(labels)
    for index in longest.values():
        result[index] = replace(result[index], read_bytes=_bytes_of(result[index], spec, workload))
    return result


def _bytes_of(label: Label, spec: ModelSpec, workload: Workload) -> int:
    if label.role == "attention":
        return kv_layer_bytes(spec, workload, label.layer or 0)
    module = label.scope.rpartition(".")[2]
    shapes = {**projections(spec), "lm_head": (spec.vocab_size, spec.hidden_size)}
    rows, columns = shapes.get(module, (0, 0))
    if not rows:
        return 0
    weights = matrix_format(spec, workload, module, label.layer or 0)
    return weights.weight_bytes(rows, columns) + weights.scales_bytes(rows, columns)
