"""Steps that are implausibly far from their floor, or beyond it, with the likely reason as the records have it."""

from collections.abc import Callable, Sequence
from statistics import median

from memfloor.record import Timed
from memfloor.report.summary import CellSummary, summarise_cell
from memfloor.units import format_percent, format_seconds

Finder = Callable[[Sequence[Timed]], str | None]

# A share of the paired ceiling below which a step is not believed without a reason, and one that no step reaches.
IMPLAUSIBLY_LOW, IMPLAUSIBLY_HIGH = 0.1, 1.05
# A ceiling of less than this share of the datasheet's peak is not that memory's.
LOW_CEILING = 0.6
# The host issues for so much of a step that the device waits for it.
ISSUE_BOUND = 0.9
CLOCK_DROP = 0.8
# Other processes' share of the cores above which they are a reason.
FOREIGN_LOAD = 0.1
# NVML's reason "the GPU is idle": no throttling.
IDLE_REASON = 1
# The types that 16-bit and wider weights must have.
WIDE_TYPES = {"bf16": "torch.bfloat16", "fp16": "torch.float16", "fp32": "torch.float32"}
CLOCKS = {"sm_clock_hz": "GPU's clock", "memory_clock_hz": "GPU's memory clock", "cpu_clock_hz": "CPU's clock"}
# What torch.compile says of itself where a step is not the one graph it should be.
COMPILE_FAULTS = {
    "graph_breaks": "graph breaks",
    "recompiles_after_warm_up": "recompilations after warm-up",
    "cuda_graph_skips": "CUDA graphs skipped",
}


def alarm(summary: CellSummary) -> str | None:
    """Return why a cell's figure is not to be believed as it stands, or None."""
    share = summary.fractions["streamed"].ceiling.value
    if share > IMPLAUSIBLY_HIGH:
        return f"it is at {format_percent(share)} of what its memory delivers, which cannot be: {_beyond(summary)}"
    if share < IMPLAUSIBLY_LOW:
        return f"it is at {format_percent(share)} of its floor: {_reasons(summary, REASONS)}"
    peak, ceiling = summary.peak_bytes_per_second, summary.ceiling_bytes_per_second.value
    if peak and ceiling < LOW_CEILING * peak:
        found = _reasons(summary, CEILING_REASONS)
        return f"its ceiling is {format_percent(ceiling / peak)} of what its memory should deliver: {found}"
    return None


def alarms_of(runs: Sequence[Timed]) -> list[str]:
    """Return the alarm that the runs or anatomies of one cell on one device raise, if they raise one."""
    found = alarm(summarise_cell(runs)) if runs else None
    return [] if found is None else [found]


def _reasons(summary: CellSummary, finders: Sequence[Finder]) -> str:
    return "; ".join(text for find in finders if (text := find(summary.runs))) or "the records do not say why"


def _beyond(summary: CellSummary) -> str:
    cache = summary.device.last_level_cache_bytes
    if cache and summary.fractions["streamed"].total_bytes < 4 * cache:
        return "its bytes stay in the cache"
    return "the ceiling was read while memory was slower than during the steps, or the step reads less than it should"


def _elsewhere(runs: Sequence[Timed]) -> str | None:
    kind, device = runs[0].cell.device, runs[0].path.facts.get("weights_device", "")
    return f"its weights lie on {device}" if device and not device.startswith(kind) else None


def _other_dtype(runs: Sequence[Timed]) -> str | None:
    found, wanted = runs[0].path.facts.get("weights_dtype", ""), WIDE_TYPES.get(runs[0].cell.workload.weights)
    return f"its weights are {found}, not {wanted}" if found and wanted and found != wanted else None


def _few_threads(runs: Sequence[Timed]) -> str | None:
    facts, allowed = runs[0].path.facts, runs[0].environment.threads
    used = facts.get("pool_threads", facts.get("torch_threads", str(allowed)))
    return f"it ran on {used} of {allowed} threads" if runs[0].cell.device == "cpu" and int(used) < allowed else None


def _compiled_otherwise(runs: Sequence[Timed]) -> str | None:
    facts = runs[0].path.facts
    found = [f"{facts[name]} {words}" for name, words in COMPILE_FAULTS.items() if facts.get(name, "0") != "0"]
    return f"torch.compile reports {' and '.join(found)}" if found else None


def _math_attention(runs: Sequence[Timed]) -> str | None:
    named = [name for name in runs[0].path.operators if "attention_math" in name]
    return f"attention took the unfused path {named[0]}" if named else None


def _cudnn_plans(runs: Sequence[Timed]) -> str | None:
    path = runs[0].path
    grows = path.facts.get("cache_class") == "DynamicCache"
    if not grows or not any("cudnn_attention" in name for name in path.operators):
        return None
    return "cuDNN's attention makes a new plan for each length of a growing cache; try sdpa=flash"


def _host_bound(runs: Sequence[Timed]) -> str | None:
    issued = [run.issue_seconds for run in runs if run.issue_seconds is not None]
    step = median(run.p50_seconds for run in runs)
    if not issued or median(issued) < ISSUE_BOUND * step:
        return None
    return f"the host launches kernels for {format_seconds(median(issued))} of {format_seconds(step)}"


def _throttled(runs: Sequence[Timed]) -> str | None:
    for run in runs:
        before, after = run.environment.sensors_before, run.environment.sensors_after
        mask = after.get("throttle_reasons_mask")
        if isinstance(mask, float) and int(mask) & ~IDLE_REASON:
            return f"the GPU's clocks were held back (reasons {int(mask):#x})"
        for name, words in CLOCKS.items():
            clocks = before.get(name), after.get(name)
            if isinstance(clocks[0], float) and isinstance(clocks[1], float) and clocks[1] < CLOCK_DROP * clocks[0]:
                return f"the {words} fell during a run"
    return None


def _shared_host(runs: Sequence[Timed]) -> str | None:
    load = max(run.environment.foreign_load for run in runs)
    return f"other processes took up to {format_percent(load)} of the host's cores" if load > FOREIGN_LOAD else None


def _shared_gpu(runs: Sequence[Timed]) -> str | None:
    counts = [run.environment.foreign_gpu_processes for run in runs]
    others = max((count for count in counts if isinstance(count, int)), default=0)
    return f"other processes used the GPU, up to {others}" if others else None


CEILING_REASONS: tuple[Finder, ...] = (_throttled, _shared_gpu, _shared_host)
REASONS: tuple[Finder, ...] = (
    _elsewhere,
    _other_dtype,
    _few_threads,
    _compiled_otherwise,
    _math_attention,
    _cudnn_plans,
    _host_bound,
    *CEILING_REASONS,
)
