"""The gap ledger of a cell: its middle anatomy broken down, with intervals over all of its anatomies.

Where the ceiling was read beside traced steps too, timed and traced ones that met the same bandwidth are taken.
Source: docs/method.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any, Literal

from memfloor.record import Anatomy
from memfloor.report.alarms import alarms_of
from memfloor.report.breakdown import IDLE, entries_of, excess_of, twin_seconds
from memfloor.report.matching import Match, match_steps
from memfloor.report.tables import seconds_interval
from memfloor.stats import Estimate, estimate
from memfloor.units import format_percent, format_seconds

LEDGER_COLUMNS = ("term", "time", "95 % CI", "share of gap", "what would remove it")

# A ledger whose unexplained share of the step is larger is refused.
TOLERANCE = 0.05
REFUSED = "refused"
# A bootstrap of the median of so few values is their range.
RANGE_RUNS = 5


@dataclass(frozen=True, slots=True)
class Term:
    """Hold one term of a ledger.

    Attributes:
        name: What owns the time.
        seconds: Of the anatomies in the middle, with an interval over all; below zero where kernels beat the ceiling.
        share_of_gap: Of the time between floor and step.
        remedy: The intervention that would remove it.
    """

    name: str
    seconds: Estimate
    share_of_gap: float
    remedy: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """Hold the ledger of one cell on one device; floor, terms and unexplained add up to the step.

    Values are those of the anatomy whose step is the median one, or the means of the two in the middle, which add up
    as medians do not; intervals are of the median over matched anatomies.

    Attributes:
        anatomies: All of the cell.
        matches: The steps of each anatomy that the ledger rests on.
        matched: Those anatomies that have such steps, with no others; all as they are if none has.
        typical: The one of them whose step is the median, or the lower of the two in the middle.
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
    matched: tuple[Anatomy, ...]
    typical: Anatomy
    step_seconds: Estimate
    floor_seconds: Estimate
    terms: tuple[Term, ...]
    unexplained_seconds: Estimate
    launch_side_seconds: Estimate | None
    profiled_over_unprofiled: float
    verdict: str

    @property
    def refused(self) -> bool:
        """Tell whether the ledger is refused."""
        return self.verdict.startswith(REFUSED)

    @property
    def alarms(self) -> list[str]:
        """Return why its figures are not to be believed as they stand, if anything says so."""
        return alarms_of(self.matched)

    @property
    def lines(self) -> dict[str, Estimate]:
        """Return what adds up to the step: floor, terms and unexplained."""
        terms = {term.name: term.seconds for term in self.terms}
        return {"floor": self.floor_seconds, **terms, "unexplained": self.unexplained_seconds}

    def steps_kept(self, which: Literal["timed_steps", "traced_steps"]) -> tuple[int, int]:
        """Return how many steps of all anatomies the ledger rests on, and how many there are."""
        kept, taken = zip(*(getattr(match, which) for match in self.matches), strict=True)
        return sum(kept), sum(taken)

    def to_json(self) -> dict[str, Any]:
        """Return the ledger as plain data for `--json`."""
        return {
            "anatomies": len(self.matched),
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
            "alarms": self.alarms,
            "verdict": self.verdict,
        }


def make_ledger(anatomies: Sequence[Anatomy]) -> Ledger:
    """Return the ledger of the anatomies of one cell on one device."""
    matches = tuple(map(match_steps, anatomies))
    # Where no anatomy has steps to set against each other all are shown, and the verdict refuses them.
    matched = [match.anatomy for match in matches if match.refusal is None] or list(anatomies)
    shown = middle(matched)
    entries = {id(anatomy): entries_of(anatomy) for anatomy in matched}
    lines = {name: _line(matched, shown, lambda a, name=name: entries[id(a)][name]) for name in entries[id(shown[0])]}  # type: ignore[misc]
    step = _line(matched, shown, lambda anatomy: anatomy.p50_seconds)
    gap = step.value - lines["floor"].value
    terms = excess_of(anatomies[0])
    remedies = {name: remedy for _, name, remedy in terms} | {IDLE[0]: IDLE[1]}
    twins = [anatomy for anatomy in matched if anatomy.twin]
    return Ledger(
        anatomies=tuple(anatomies),
        matches=matches,
        matched=tuple(matched),
        typical=shown[0],
        step_seconds=step,
        floor_seconds=lines["floor"],
        terms=tuple(Term(name, lines[name], lines[name].value / gap, remedy) for name, remedy in remedies.items()),
        unexplained_seconds=lines["unexplained"],
        launch_side_seconds=_line(twins, middle(twins), twin_seconds) if twins else None,
        profiled_over_unprofiled=fmean(median(a.trace.step_seconds) / a.p50_seconds for a in shown),
        verdict=_verdict(lines["unexplained"].value / step.value, [match.refusal for match in matches]),
    )


def middle(anatomies: Sequence[Anatomy]) -> list[Anatomy]:
    """Return the anatomy whose timed step is the median one, or the two in the middle, the lower first."""
    ordered = sorted(anatomies, key=lambda anatomy: anatomy.p50_seconds)
    return ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]


def _line(every: Sequence[Anatomy], shown: Sequence[Anatomy], seconds: Callable[[Anatomy], float]) -> Estimate:
    return replace(estimate(every, seconds), value=fmean(map(seconds, shown)))


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
    said += [f"Alarm: {text}." for text in ledger.alarms]
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


def _verdict(unexplained: float, refusals: Sequence[str | None]) -> str:
    if all(refusals):
        return f"{REFUSED}: enough timed and traced steps met no bandwidth in common: {refusals[0]}"
    if abs(unexplained) <= TOLERANCE:
        return "explained"
    return (
        f"{REFUSED}: kernels and predicted idle time differ from the timed step by {abs(unexplained):.1%}, "
        f"more than {TOLERANCE:.0%}"
    )
