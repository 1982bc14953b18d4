"""Steps of two processes that met the same bandwidth: timed and traced ones, or traced ones of two arms.

Steps are chosen and never scaled: how much longer a kernel takes in the slower state is another number for each kernel.
Source: docs/method.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from memfloor.record import STEADY_SPREAD, Anatomy, Step, StepTrace, paired_ceiling
from memfloor.units import format_bandwidth

# Fewer timed or traced steps at one bandwidth say too little, unless no more were taken.
ENOUGH_STEPS = 3
# A smaller share of the timed steps would not be the usual step.
ENOUGH_TIMED = 0.25


@dataclass(frozen=True, slots=True)
class Match:
    """Hold the steps of one anatomy that can be set against each other.

    Attributes:
        anatomy: With the traced steps that were kept; timed steps that were left out are settling ones in it.
        timed_steps: Timed steps chosen, and taken.
        traced_steps: Traced steps chosen, and taken.
        refusal: Why none could be chosen, the anatomy being as it was then; None otherwise.
    """

    anatomy: Anatomy
    timed_steps: tuple[int, int]
    traced_steps: tuple[int, int]
    refusal: str | None = None


def match_steps(anatomy: Anatomy) -> Match:
    """Choose the bandwidth that most timed steps and enough traced ones met, and keep the steps that met it.

    A step met the bandwidth of the readings before and after it, if they agree; the steps kept differ by no more. All
    steps are kept where no ceiling was read beside the traced ones.
    """
    trace = anatomy.trace
    timed, traced = len(anatomy.step_seconds), len(trace.step_seconds)
    everything = Match(anatomy, (timed, timed), (traced, traced))
    if not trace.ceilings:
        return everything
    of_timed = {place: p.ceiling_bytes_per_second for p in anatomy.parts() if p.steady for place in p.steps}
    of_traced = _steady(trace)
    enough = min(timed, max(ENOUGH_STEPS, ceil(ENOUGH_TIMED * timed))), min(traced, ENOUGH_STEPS)
    chosen = _choose(of_timed, of_traced, enough)
    if chosen is None:
        ranges = f"{_range(of_timed, 'timed')}, {_range(of_traced, 'traced')}"
        refusal = f"{ranges}; take more with --timed-steps, and --traced-steps of memfloor anatomy"
        return Match(anatomy, (0, timed), (0, traced), refusal)
    kept = anatomy.model_copy(update={"steps": _settle(anatomy.steps, chosen[0]), "trace": _only(trace, chosen[1])})
    return Match(kept, (len(chosen[0]), timed), (len(chosen[1]), traced))


def match_traces(baseline: StepTrace, candidate: StepTrace) -> tuple[StepTrace, StepTrace] | str:
    """Return the traces of two arms with the steps that met one bandwidth; or why not, where too few met any.

    Chosen is the bandwidth that most of the baseline's steps met. All steps are kept where no ceiling was read beside
    those of either.
    """
    if not baseline.ceilings or not candidate.ceilings:
        return baseline, candidate
    ours, theirs = _steady(baseline), _steady(candidate)
    enough = min(ENOUGH_STEPS, len(baseline.step_seconds)), min(ENOUGH_STEPS, len(candidate.step_seconds))
    chosen = _choose(ours, theirs, enough)
    if chosen is None:
        return f"{_range(ours, 'baseline')}, {_range(theirs, 'candidate')}"
    return _only(baseline, chosen[0]), _only(candidate, chosen[1])


def _steady(trace: StepTrace) -> dict[int, float]:
    pairs = (paired_ceiling(before, after) for before, after in trace.ceilings)
    return {place: rate for place, (rate, steady) in enumerate(pairs) if steady}


def _choose(
    first: Mapping[int, float], second: Mapping[int, float], enough: tuple[int, int]
) -> tuple[list[int], list[int]] | None:
    """Return the places of the first and of the second steps at one bandwidth; None where too few of both meet any."""
    lowest = sorted({*first.values(), *second.values()})
    pairs = [(_within(first, low), _within(second, low)) for low in lowest]
    usable = [pair for pair in pairs if len(pair[0]) >= enough[0] and len(pair[1]) >= enough[1]]
    return max(usable, key=lambda pair: (len(pair[0]), len(pair[1])), default=None)


def _within(rates: Mapping[int, float], lowest: float) -> list[int]:
    return [place for place, rate in rates.items() if lowest <= rate <= STEADY_SPREAD * lowest]


def _settle(steps: Sequence[Step], kept: Sequence[int]) -> tuple[Step, ...]:
    return tuple(
        step.model_copy(update={"phase": "settle"}) if step.phase == "timed" and place not in kept else step
        for place, step in enumerate(steps)
    )


def _only(trace: StepTrace, kept: Sequence[int]) -> StepTrace:
    def pick(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(values[place] for place in kept) if values else ()

    kernels = tuple(
        kernel.model_copy(
            update={
                "start_seconds": pick(kernel.start_seconds),
                "seconds": pick(kernel.seconds),
                "launch_seconds": pick(kernel.launch_seconds),
            }
        )
        for kernel in trace.kernels
    )
    return trace.model_copy(
        update={
            "step_seconds": pick(trace.step_seconds),
            "lead_seconds": pick(trace.lead_seconds),
            "issue_seconds": pick(trace.issue_seconds),
            "kernels": kernels,
            "ceilings": tuple(trace.ceilings[place] for place in kept),
        }
    )


def _range(rates: Mapping[int, float], which: str) -> str:
    values = sorted(rates.values())
    met = f", {format_bandwidth(values[0])} to {format_bandwidth(values[-1])}" if values else ""
    return f"{len(values)} {which} steps met a steady one{met}"
