"""The gap ledger: floor, excess of each part of a step, and idle time, which must add up to the step that was timed.

Kernel times come from traced steps, the step from timed ones of another process. The time between kernels is never read
off a trace of kernels that are launched one by one, as the profiler slows the host. It is predicted: on a GPU from the
traced launches, scaled to the time the host takes without a profiler, on a CPU from the twin. What the prediction
misses is unexplained. Source: docs/method.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from typing import Any

from memfloor.floor import step_traffic
from memfloor.record import Anatomy, Role, StepTrace
from memfloor.report.tables import seconds_interval
from memfloor.stats import Estimate, estimate
from memfloor.units import format_percent, format_seconds

LEDGER_COLUMNS = ("term", "time", "95 % CI", "share of gap", "what would remove it")

# A ledger whose unexplained share of the step is larger is refused.
TOLERANCE = 0.05

# Each term: the role of its kernels, its name, and what would remove it.
EXCESS: tuple[tuple[Role, str, str], ...] = (
    (
        "weights",
        "weight products",
        "products that read their weights at the ceiling: the engine; fewer bytes: --weights",
    ),
    ("attention", "attention", "split attention that reads keys and values once: the engine; sdpa=flash"),
    ("cache", "cache copies", "a cache that is written in place and read by its heads: the engine"),
    ("elementwise", "norms and elementwise", "fusion: hf-compile, the engine"),
    ("sampling", "sampling", "choosing the token on the device, fused with the head"),
)
IDLE = ("host and launch", "one graph a step: launch=graph")


@dataclass(frozen=True, slots=True)
class Term:
    """Hold one term of a ledger.

    Attributes:
        name: What owns the time.
        seconds: Of a step, with an interval over anatomies; below zero where kernels beat the ceiling.
        share_of_gap: Of the time between floor and step.
        remedy: The intervention that would remove it.
    """

    name: str
    seconds: Estimate
    share_of_gap: float
    remedy: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """Hold the ledger of one cell on one device; floor, terms and unexplained add up to the step in each anatomy.

    Attributes:
        step_seconds: The timed step.
        floor_seconds: The time its bytes take at the paired ceiling.
        terms: By owner.
        unexplained_seconds: The timed step less everything else.
        launch_side_seconds: The twin's step: the time of the launches alone; None where there is no twin.
        profiled_over_unprofiled: The traced step over the timed one.
        verdict: `explained`, or why not.
    """

    anatomies: tuple[Anatomy, ...]
    step_seconds: Estimate
    floor_seconds: Estimate
    terms: tuple[Term, ...]
    unexplained_seconds: Estimate
    launch_side_seconds: Estimate | None
    profiled_over_unprofiled: float
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Return the ledger as plain data for `--json`."""
        return {
            "step_seconds": self.step_seconds.value,
            "floor_seconds": self.floor_seconds.value,
            "ledger": [
                {
                    "term": term.name,
                    "seconds": term.seconds.value,
                    "ci95_seconds": term.seconds.ci95,
                    "share_of_gap": term.share_of_gap,
                }
                for term in self.terms
            ],
            "unexplained_seconds": self.unexplained_seconds.value,
            "launch_side_seconds": self.launch_side_seconds.value if self.launch_side_seconds else None,
            "profiled_over_unprofiled": self.profiled_over_unprofiled,
            "verdict": self.verdict,
        }


def make_ledger(anatomies: Sequence[Anatomy]) -> Ledger:
    """Return the ledger of the anatomies of one cell on one device."""
    entries = {id(anatomy): entries_of(anatomy) for anatomy in anatomies}
    step = estimate(anatomies, lambda anatomy: anatomy.p50_seconds)
    floor = estimate(anatomies, lambda anatomy: entries[id(anatomy)]["floor"])
    unexplained = estimate(anatomies, lambda anatomy: entries[id(anatomy)]["unexplained"])
    remedies = {name: remedy for _, name, remedy in EXCESS} | {IDLE[0]: IDLE[1]}
    gap = step.value - floor.value
    terms = []
    for name, remedy in remedies.items():
        seconds = estimate(anatomies, lambda anatomy, name=name: entries[id(anatomy)][name])  # type: ignore[misc]
        terms.append(Term(name, seconds, seconds.value / gap, remedy))
    twins = [anatomy for anatomy in anatomies if anatomy.twin]
    profiled = median(median(a.trace.step_seconds) / a.p50_seconds for a in anatomies)
    return Ledger(
        anatomies=tuple(anatomies),
        step_seconds=step,
        floor_seconds=floor,
        terms=tuple(terms),
        unexplained_seconds=unexplained,
        launch_side_seconds=estimate(twins, twin_seconds) if twins else None,
        profiled_over_unprofiled=profiled,
        verdict=_verdict(unexplained.value / step.value),
    )


def make_ledgers(anatomies: Sequence[Anatomy]) -> list[Ledger]:
    """Return a ledger for each cell on each device, in the order of their first anatomies."""
    groups: dict[tuple[str, str], list[Anatomy]] = {}
    for anatomy in anatomies:
        groups.setdefault((anatomy.cell.key, anatomy.environment.device.name), []).append(anatomy)
    return [make_ledger(group) for group in groups.values()]


def ledger_rows(ledger: Ledger) -> list[list[str]]:
    """Return the rows of a ledger as text: name, time, interval, share of the gap, remedy."""
    gap = ledger.step_seconds.value - ledger.floor_seconds.value
    unexplained = ledger.unexplained_seconds
    return [
        ["floor at the paired ceiling", *_times(ledger.floor_seconds), "", ""],
        *([t.name, *_times(t.seconds), format_percent(t.share_of_gap), t.remedy] for t in ledger.terms),
        ["unexplained", *_times(unexplained), format_percent(unexplained.value / gap), ""],
        ["step, timed", *_times(ledger.step_seconds), "", ""],
    ]


def ledger_checks(ledger: Ledger) -> list[str]:
    """Return in sentences what checks a ledger."""
    said = [f"{ledger.verdict}; a traced step takes {ledger.profiled_over_unprofiled:.2f} times as long."]
    if ledger.launch_side_seconds:
        seconds = format_seconds(ledger.launch_side_seconds.value)
        said.append(f"The same operators on tensors too small to matter take {seconds} a step.")
    return said


def _times(estimate: Estimate) -> list[str]:
    return [format_seconds(estimate.value), seconds_interval(estimate)]


def entries_of(anatomy: Anatomy) -> dict[str, float]:
    """Return floor, terms and unexplained of one anatomy, in seconds; their sum is its timed step."""
    step_bytes = step_traffic(anatomy.cell.spec, anatomy.cell.workload).total_bytes
    floor = anatomy.fraction_of_ceiling(step_bytes) * anatomy.p50_seconds
    busy = role_seconds(anatomy.trace)
    nothing = role_seconds(anatomy.twin_trace) if _is_twin_of_cpu(anatomy) and anatomy.twin_trace else {}
    work = {role: busy.get(role, 0.0) - nothing.get(role, 0.0) for role, _, _ in EXCESS}
    idle = idle_seconds(anatomy, sum(busy.values()))
    read = _role_bytes(anatomy, step_bytes)
    entries = {"floor": floor}
    entries |= {name: work[role] - read[role] / step_bytes * floor for role, name, _ in EXCESS}
    entries[IDLE[0]] = idle
    return entries | {"unexplained": anatomy.p50_seconds - sum(entries.values())}


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


def queued_seconds(trace: StepTrace, issue_seconds: float) -> float:
    """Return the time of a step whose kernels run as traced, each when it is launched and the one before has ended.

    Args:
        trace: Of a step whose kernels are launched one by one; it gives the pattern of the launches.
        issue_seconds: The time in which the host launches the step without a profiler.
    """
    lead = median(trace.lead_seconds)
    last = max(median(kernel.launch_seconds) for kernel in trace.kernels)
    slower = (lead + last) / issue_seconds
    latency = min(
        start - launch
        for kernel in trace.kernels
        for start, launch in zip(kernel.start_seconds, kernel.launch_seconds, strict=True)
    )
    end = 0.0
    for kernel, seconds in zip(trace.kernels, exclusive_seconds(trace), strict=True):
        launched = (lead + median(kernel.launch_seconds)) / slower + latency
        end = max(end, launched) + seconds
    return end


def role_seconds(trace: StepTrace) -> dict[Role, float]:
    """Return the time that kernels of each role own; their sum is the time in which any kernel runs."""
    owned: dict[Role, float] = {}
    for kernel, seconds in zip(trace.kernels, exclusive_seconds(trace), strict=True):
        owned[kernel.role] = owned.get(kernel.role, 0.0) + seconds
    return owned


def exclusive_seconds(trace: StepTrace) -> list[float]:
    """Return the time that each kernel owns, the median over traced steps."""
    return [
        median(kernel)
        for kernel in zip(*map(owned_seconds, repeat(trace), range(len(trace.step_seconds))), strict=True)
    ]


def gap_seconds(trace: StepTrace) -> float:
    """Return the time of a traced step in which no kernel runs, the median over traced steps."""
    return median(seconds - sum(owned_seconds(trace, step)) for step, seconds in enumerate(trace.step_seconds))


def owned_seconds(trace: StepTrace, step: int) -> list[float]:
    """Return each kernel's time in one step beyond the end of all kernels before it: some overlap on a GPU."""
    if trace.device == "cpu":
        return [kernel.seconds[step] for kernel in trace.kernels]
    owned, last = [], 0.0
    for kernel in trace.kernels:
        start, end = kernel.start_seconds[step], kernel.start_seconds[step] + kernel.seconds[step]
        owned.append(max(0.0, end - max(last, start)))
        last = max(last, end)
    return owned


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
        "attention": traffic.kv_read,
        "cache": 0,
        "elementwise": small * (not fused),
        "sampling": 0,
    }


def _verdict(unexplained: float) -> str:
    if abs(unexplained) <= TOLERANCE:
        return "explained"
    return (
        f"refused: kernels and predicted idle time differ from the timed step by {abs(unexplained):.1%}, "
        f"more than {TOLERANCE:.0%}"
    )
