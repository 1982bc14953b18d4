"""One anatomy broken down: floor, excess of each part of a step, and idle time, which must add up to the timed step.

Kernel times come from traced steps, the step from timed ones of another process. The time between kernels is never read
off a trace of kernels that are launched one by one, as the profiler slows the host. It is predicted: on a GPU from the
traced launches, scaled to the time the host takes without a profiler, on a CPU from the twin. What the prediction
misses is unexplained. Source: docs/method.md.
"""

from statistics import median

from memfloor.floor import step_traffic
from memfloor.record import Anatomy, Role
from memfloor.report.kernel_times import gap_seconds, queued_seconds, role_seconds
from memfloor.spec import weight_format

# Each term: the role of its kernels, its name, and what would remove it.
EXCESS: tuple[tuple[Role, str, str], ...] = (
    (
        "weights",
        "weight products",
        "products that read their weights at the ceiling: the engine; fewer bytes: --weights",
    ),
    (
        "dequantization",
        "dequantisation",
        "kernels that widen and scale weights as they multiply: awq-marlin, gptq-exllamav2, the engine",
    ),
    ("attention", "attention", "split attention that reads keys and values once: the engine; sdpa=flash"),
    ("cache", "cache copies", "a cache that is written in place and read by its heads: the engine"),
    ("elementwise", "norms and elementwise", "fusion: hf-compile, the engine"),
    ("sampling", "sampling", "choosing the token on the device, fused with the head"),
)
IDLE = ("host and launch", "one graph a step: launch=graph")


def entries_of(anatomy: Anatomy) -> dict[str, float]:
    """Return floor, terms and unexplained of one anatomy, in seconds; their sum is its timed step."""
    step_bytes = step_traffic(anatomy.cell.spec, anatomy.cell.workload).total_bytes
    floor = anatomy.fraction_of_ceiling(step_bytes) * anatomy.p50_seconds
    busy = role_seconds(anatomy.trace)
    nothing = role_seconds(anatomy.twin_trace) if _is_twin_of_cpu(anatomy) and anatomy.twin_trace else {}
    terms = excess_of(anatomy)
    work = {role: busy.get(role, 0.0) - nothing.get(role, 0.0) for role, _, _ in terms}
    idle = idle_seconds(anatomy, sum(busy.values()))
    read = _role_bytes(anatomy, step_bytes)
    entries = {"floor": floor}
    entries |= {name: work[role] - read[role] / step_bytes * floor for role, name, _ in terms}
    entries[IDLE[0]] = idle
    return entries | {"unexplained": anatomy.p50_seconds - sum(entries.values())}


def excess_of(anatomy: Anatomy) -> tuple[tuple[Role, str, str], ...]:
    """Return the terms that an anatomy can tell apart.

    Dequantisation is one of quantised weights alone, where modules tell the kernels of a matrix that do not multiply.
    """
    workload = anatomy.cell.workload
    formats = [weight_format(name) for name in (workload.weights, workload.head)]
    quantized = anatomy.trace.labelled == "modules" and any(item.is_quantized for item in formats)
    return tuple(term for term in EXCESS if quantized or term[0] != "dequantization")


def idle_seconds(anatomy: Anatomy, busy_seconds: float) -> float:
    """Return the time of a step in which no kernel runs, as it is without a profiler.

    Args:
        anatomy: What was timed and traced.
        busy_seconds: The time in which a kernel runs.
    """
    trace, issued = anatomy.trace, anatomy.issue_seconds or 0.0
    if trace.device == "cpu":
        return twin_seconds(anatomy) if anatomy.twin else gap_seconds(trace)
    if not anatomy.twin:
        # Launched as a whole: what the host does before, and the trace's own gaps.
        return issued + gap_seconds(trace)
    return queued_seconds(trace, issued) - busy_seconds


def twin_seconds(anatomy: Anatomy) -> float:
    """Return the twin's median step."""
    return median(step.seconds for step in anatomy.twin)


def _is_twin_of_cpu(anatomy: Anatomy) -> bool:
    return anatomy.trace.device == "cpu" and bool(anatomy.twin)


def _role_bytes(anatomy: Anatomy, step_bytes: int) -> dict[Role, int]:
    """Return the bytes of a step by the role that reads them; what is neither weights nor KV is elementwise."""
    traffic = step_traffic(anatomy.cell.spec, anatomy.cell.workload)
    weights = traffic.attention_weights + traffic.mlp_weights + traffic.head + traffic.scales
    small = step_bytes - weights - traffic.kv_read
    # The engine's kernels read norms and biases with their weights.
    fused = anatomy.trace.labelled == "plan"
    return {
        "weights": weights + small * fused,
        "dequantization": 0,
        "attention": traffic.kv_read,
        "cache": 0,
        "elementwise": small * (not fused),
        "sampling": 0,
    }
