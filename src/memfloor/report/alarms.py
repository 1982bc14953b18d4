"""Steps that are implausibly far from their floor, or beyond it, with the likely reason as the records have it."""

from collections.abc import Callable, Sequence
from statistics import median

from memfloor.record import Run
from memfloor.report.summary import CellSummary
from memfloor.units import format_percent, format_seconds

# A share of the paired ceiling below which a step is not believed without a reason, and one that no step reaches.
IMPLAUSIBLY_LOW, IMPLAUSIBLY_HIGH = 0.1, 1.05
# The host issues for so much of a step that the device waits for it.
ISSUE_BOUND = 0.9
CLOCK_DROP = 0.8
# NVML's reason "the GPU is idle": no throttling.
IDLE_REASON = 1


def alarm(summary: CellSummary) -> str | None:
    """Return why a cell's figure is not to be believed as it stands, or None."""
    share = summary.fractions["streamed"].ceiling.value
    if share > IMPLAUSIBLY_HIGH:
        return f"it is at {format_percent(share)} of what its memory delivers, which cannot be: {_beyond(summary)}"
    if share >= IMPLAUSIBLY_LOW:
        return None
    reasons = [text for find in REASONS if (text := find(summary.runs))]
    return f"it is at {format_percent(share)} of its floor: {'; '.join(reasons) or 'the records do not say why'}"


def _beyond(summary: CellSummary) -> str:
    cache = summary.device.last_level_cache_bytes
    if cache and summary.fractions["streamed"].total_bytes < 4 * cache:
        return "its bytes stay in the cache"
    return "the ceiling was read while memory was slower than during the steps, or the step reads less than it should"


def _elsewhere(runs: Sequence[Run]) -> str | None:
    kind, device = runs[0].cell.device, runs[0].path.facts.get("weights_device", "")
    return f"its weights lie on {device}" if device and not device.startswith(kind) else None


def _math_attention(runs: Sequence[Run]) -> str | None:
    named = [name for name in runs[0].path.operators if "attention_math" in name]
    return f"attention took the unfused path {named[0]}" if named else None


def _cudnn_plans(runs: Sequence[Run]) -> str | None:
    path = runs[0].path
    grows = path.facts.get("cache_class") == "DynamicCache"
    if not grows or not any("cudnn_attention" in name for name in path.operators):
        return None
    return "cuDNN's attention makes a new plan for each length of a growing cache; try sdpa=flash"


def _host_bound(runs: Sequence[Run]) -> str | None:
    issued = [run.issue_seconds for run in runs if run.issue_seconds is not None]
    step = median(run.p50_seconds for run in runs)
    if not issued or median(issued) < ISSUE_BOUND * step:
        return None
    return f"the host launches kernels for {format_seconds(median(issued))} of {format_seconds(step)}"


def _throttled(runs: Sequence[Run]) -> str | None:
    for run in runs:
        before, after = run.environment.sensors_before, run.environment.sensors_after
        mask = after.get("throttle_reasons_mask")
        if isinstance(mask, float) and int(mask) & ~IDLE_REASON:
            return f"the GPU's clocks were held back (reasons {int(mask):#x})"
        clocks = before.get("sm_clock_hz"), after.get("sm_clock_hz")
        if isinstance(clocks[0], float) and isinstance(clocks[1], float) and clocks[1] < CLOCK_DROP * clocks[0]:
            return "the GPU's clock fell during a run"
    return None


REASONS: tuple[Callable[[Sequence[Run]], str | None], ...] = (
    _elsewhere,
    _math_attention,
    _cudnn_plans,
    _host_bound,
    _throttled,
)
