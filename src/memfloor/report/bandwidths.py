"""Did both arms meet the same bandwidth? Their ratio at equal bandwidth, and how far apart their ceilings were.

Times of arms that met different bandwidth cannot be compared: each arm's own paired ceiling tells what it met.
Source: docs/method.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from memfloor.record import STEADY_SPREAD, Run
from memfloor.stats import Ratio, paired_ratio, unpaired_ratio
from memfloor.units import format_percent


@dataclass(frozen=True, slots=True)
class EqualBandwidth:
    """Hold what paired ceilings say of a ratio of times.

    Attributes:
        ratio: The baseline's time over the candidate's, each times the ceiling beside it, paired by block: the ratio of
            the times that the same bytes would take at one bandwidth, if both arms go by bandwidth.
        apart: The larger of the two arms' ceilings over the smaller, in the block where they differ most.
    """

    ratio: Ratio
    apart: float

    @property
    def differed(self) -> bool:
        """Tell whether the arms of some block met bandwidths that count as different."""
        return self.apart > STEADY_SPREAD

    def __str__(self) -> str:
        return f"bandwidth differed between the arms by up to {format_percent(self.apart - 1)} in a block"


def at_equal_bandwidth(baseline: Sequence[Run], candidate: Sequence[Run]) -> EqualBandwidth:
    """Return the ratio of two arms at equal bandwidth.

    Args:
        baseline: Runs of the baseline.
        candidate: Runs of the candidate; at least one shares its block with one of the baseline.
    """
    # A byte for each arm: what their steps read may differ, and is no part of this.
    ours, theirs = ({run.block: run.fraction_of_ceiling(1) for run in runs} for runs in (baseline, candidate))
    return EqualBandwidth(ratio=paired_ratio(theirs, ours), apart=_apart(_ceilings(baseline), _ceilings(candidate)))


def at_equal_bandwidth_unpaired(before: Sequence[Run], after: Sequence[Run]) -> EqualBandwidth:
    """Return the ratio of two sets of runs that share no blocks, as if both had met one bandwidth.

    Args:
        before: Runs of the numerator; at least one.
        after: Runs of the denominator; at least one.
    """
    ours, theirs = ([run.fraction_of_ceiling(1) for run in runs] for runs in (before, after))
    slow, fast = sorted(median(run.ceiling_bytes_per_second for run in runs) for runs in (before, after))
    return EqualBandwidth(ratio=unpaired_ratio(theirs, ours), apart=fast / slow)


def _ceilings(runs: Sequence[Run]) -> dict[int, float]:
    return {run.block: run.ceiling_bytes_per_second for run in runs}


def _apart(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float:
    pairs = (sorted((ours[block], theirs[block])) for block in ours.keys() & theirs.keys())
    return max(fast / slow for slow, fast in pairs)
