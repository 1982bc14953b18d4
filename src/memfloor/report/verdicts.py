"""What may be said of a ratio: its verdict or why there is none, and what has become of a claimed null."""

from collections.abc import Sequence
from typing import Literal

from memfloor.record import Comparison, Run
from memfloor.report.bandwidths import EqualBandwidth
from memfloor.report.environments import environment_differences
from memfloor.report.outputs import OutputsFound
from memfloor.stats import Ratio, verdict

GRANTED = ("faster", "slower", "equivalent", "unclear")
REFUSED = "refused"
# For arms that were paired afterwards; a comparison states its own.
DEFAULT_MARGIN = 0.02

Null = Literal["holds", "falsified", "undecided"]


def verdict_of(
    comparison: Comparison | None, ratio: Ratio, equal: EqualBandwidth, runs: Sequence[Run], outputs: OutputsFound
) -> str:
    """Return the verdict, or why none is given.

    It is refused where environments or outputs differ, and withheld as unclear where the arms met different bandwidth
    and the ratio at equal bandwidth would have another verdict.

    Args:
        comparison: What was said before the first run; None for arms that were paired afterwards.
        ratio: Of the times.
        equal: The same at equal bandwidth.
        runs: Of both arms.
        outputs: What the arms' outputs say.
    """
    may_differ = comparison.may_differ if comparison else ()
    differences = environment_differences(runs, may_differ)
    if differences:
        return f"{REFUSED}: environments differ, {'; '.join(differences)}"
    if outputs.first_difference is not None and "outputs" not in may_differ:
        return f"{REFUSED}: outputs differ from step {outputs.first_difference}"
    return judge(ratio, equal, comparison.margin if comparison else DEFAULT_MARGIN)


def judge(ratio: Ratio, equal: EqualBandwidth, margin: float) -> str:
    """Return the verdict on times, withheld where bandwidth differed and the ratio at equal bandwidth has another."""
    said = verdict(ratio, margin)
    if said == "unclear" or not equal.differed:
        return said
    at_equal = verdict(equal.ratio, margin)
    return said if at_equal == said else f"unclear: {equal}; at equal bandwidth the ratio is {equal.ratio}, {at_equal}"


def null_of(comparison: Comparison | None, ratio: Ratio | None, equal: EqualBandwidth | None, said: str) -> Null | None:
    """Return what has become of the claim that a ratio stays below a threshold; None where nothing was claimed.

    Without a verdict nothing is decided, nor where the arms met different bandwidth and that decides.
    """
    below = comparison.expect_null_below if comparison else None
    if below is None:
        return None
    if ratio is None or equal is None or said not in GRANTED:
        return "undecided"
    found = _null(ratio, below)
    return "undecided" if equal.differed and _null(equal.ratio, below) != found else found


def _null(ratio: Ratio, below: float) -> Null:
    if ratio.ci95 is None:
        return "undecided"
    if ratio.ci95[1] < below:
        return "holds"
    return "falsified" if ratio.ci95[0] >= below else "undecided"
