"""The gap ledger: floor, excess of each part of a step, and idle time, which must add up to the step that was timed.

Kernel times come from traced steps, the step from timed ones of another process. The time between kernels is never read
off a trace of kernels that are launched one by one, as the profiler slows the host. It is predicted: on a GPU from the
traced launches, scaled to the time the host takes without a profiler, on a CPU from the twin. What the prediction
misses is unexplained. Where the ceiling was read beside traced steps too, timed and traced ones that met the same
bandwidth are taken. Source: docs/method.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from memfloor.floor import step_traffic
from memfloor.record import Anatomy, Role
from memfloor.report.kernel_times import gap_seconds, queued_seconds, role_seconds
from memfloor.report.matching import Match, match_steps
from memfloor.report.tables import seconds_interval
from memfloor.stats import Estimate, estimate
from memfloor.units import format_percent, format_seconds

LEDGER_COLUMNS = ("term", "time", "95 % CI", "share of gap", "what would remove it")

# A ledger whose unexplained share of the step is larger is refused.
TOLERANCE = 0.05
# A bootstrap of the median of so few values is their range.
RANGE_RUNS = 5

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
        matches: The steps of each anatomy that the ledger rests on.
        step_seconds: The timed step, of the steps that the ledger rests on.
        floor_seconds: The time its bytes take at the paired ceiling.
        terms: By owner.
        unexplained_seconds: The timed step less everything else.
        launch_side_seconds: The twin's step: the time of the launches alone; None where there is no twin.
        profiled_over_unprofiled: The traced step over the timed one.
        verdict: `explained`, or why not.
    """

    anatomies: tuple[Anatomy, ...]
    matches: tuple[Match, ...]
    step_seconds: Estimate
    floor_seconds: Estimate
    terms: tuple[Term, ...]
    unexplained_seconds: Estimate
    launch_side_seconds: Estimate | None
    profiled_over_unprofiled: float
    verdict: str

    def steps_kept(self, which: Literal["timed_steps", "traced_steps"]) -> tuple[int, int]:
        """Return how many steps of all anatomies the ledger rests on, and how many there are."""
        kept, taken = zip(*(getattr(match, which) for match in self.matches), strict=True)
        return sum(kept), sum(taken)

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
            "timed_steps": self.steps_kept("timed_steps"),
            "traced_steps": self.steps_kept("traced_steps"),
            "verdict": self.verdict,
        }


def make_ledger(anatomies: Sequence[Anatomy]) -> Ledger:
    """Return the ledger of the anatomies of one cell on one device."""
    matches = tuple(map(match_steps, anatomies))
    # Where no anatomy has steps to set against each other all are shown, and the verdict refuses them.
    matched = [match.anatomy for match in matches if match.refusal is None] or list(anatomies)
    entries = {id(anatomy): entries_of(anatomy) for anatomy in matched}
    step = estimate(matched, lambda anatomy: anatomy.p50_seconds)
    floor = estimate(matched, lambda anatomy: entries[id(anatomy)]["floor"])
    unexplained = estimate(matched, lambda anatomy: entries[id(anatomy)]["unexplained"])
    remedies = {name: remedy for _, name, remedy in EXCESS} | {IDLE[0]: IDLE[1]}
    gap = step.value - floor.value
    terms = []
    for name, remedy in remedies.items():
        seconds = estimate(matched, lambda anatomy, name=name: entries[id(anatomy)][name])  # type: ignore[misc]
        terms.append(Term(name, seconds, seconds.value / gap, remedy))
    twins = [anatomy for anatomy in matched if anatomy.twin]
    return Ledger(
        anatomies=tuple(anatomies),
        matches=matches,
        step_seconds=step,
        floor_seconds=floor,
        terms=tuple(terms),
        unexplained_seconds=unexplained,
        launch_side_seconds=estimate(twins, twin_seconds) if twins else None,
        profiled_over_unprofiled=median(median(a.trace.step_seconds) / a.p50_seconds for a in matched),
        verdict=_verdict(unexplained.value / step.value, [match.refusal for match in matches]),
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
    runs = ledger.step_seconds.runs
    if 1 < runs <= RANGE_RUNS:
        share = format_percent(1 - 2 * 0.5**runs)
        said.append(f"An interval over {runs} anatomies is their range: it holds the true median {share} of the time.")
    refusals = [match.refusal for match in ledger.matches if match.refusal]
    if refusals:
        said.append(f"{len(refusals)} of {len(ledger.matches)} anatomies have no steps to compare: {refusals[0]}.")
    timed, traced = ledger.steps_kept("timed_steps"), ledger.steps_kept("traced_steps")
    if timed[0] < timed[1] or traced[0] < traced[1]:
        said.append(
            f"{timed[0]} of {timed[1]} timed and {traced[0]} of {traced[1]} traced steps are in it: those of each "
            "anatomy that met the same bandwidth."
        )
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


def _verdict(unexplained: float, refusals: Sequence[str | None]) -> str:
    if all(refusals):
        return f"refused: enough timed and traced steps met no bandwidth in common: {refusals[0]}"
    if abs(unexplained) <= TOLERANCE:
        return "explained"
    return (
        f"refused: kernels and predicted idle time differ from the timed step by {abs(unexplained):.1%}, "
        f"more than {TOLERANCE:.0%}"
    )
