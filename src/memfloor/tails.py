"""Tails of long runs: high quantiles and rates of rare events, with intervals that need no shape of a distribution.

Cycles of one process are not independent: a neighbour or a clock slows many in a row. So every count is compared
between stretches of its run, and between runs, with what independent cycles would scatter by; where it scatters more,
the interval is that of as many fewer cycles. Source: docs/deadline.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from memfloor.units import SECONDS_PER_HOUR

CONFIDENCE = 0.95
# Stretches that each run is cut into to see whether cycles hang together.
STRETCHES = 20
# Fewer cycles in a stretch say nothing about its scatter.
FEWEST_IN_STRETCH = 2


@dataclass(frozen=True, slots=True)
class Quantile:
    """Hold a quantile of pooled values and its 95 % interval.

    Attributes:
        level: Share of values at or below it, such as 0.999.
        value: The value at that rank; None where there are fewer than `needed` values.
        low: Lower end of the interval; None where the values are too few to give one.
        high: Upper end; likewise.
        needed: Values without which none lies beyond the quantile.
    """

    level: float
    value: float | None
    low: float | None
    high: float | None
    needed: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Hold how often something happened and the 95 % Poisson interval of its rate.

    Attributes:
        count: How often it happened.
        trials: How often it could have.
        hours: Time in which it could have.
        ci95_per_hour: Exact where events do not hang together, and wider where they do.
        dispersion: Times by which the count scatters more than that of independent events; at least 1.
    """

    count: int
    trials: int
    hours: float
    ci95_per_hour: tuple[float, float]
    dispersion: float

    @property
    def per_hour(self) -> float:
        """Return the events in an hour."""
        return self.count / self.hours


def quantile(runs: Sequence[Sequence[float]], level: float) -> Quantile:
    """Return a quantile of the values of one or more runs, with an interval between two of the values.

    The interval is that of order statistics, by the binomial distribution of how many values lie at or below the
    quantile, for as many values as the scatter of those beyond it leaves.

    Args:
        runs: Of each run, its values in order; at least one value in all.
        level: Above 0 and below 1.
    """
    values = sorted(chain.from_iterable(runs))
    count, needed = len(values), round(1 / (1 - level))
    if count < needed:
        return Quantile(level, None, None, None, needed)
    value = values[_rank(level, count) - 1]
    spread = dispersion([[item > value for item in run] for run in runs])
    low, high = (None if rank is None else values[rank - 1] for rank in _rank_interval(count, level, spread))
    return Quantile(level, value, low, high, needed)


def rate(runs: Sequence[Sequence[bool]], trial_seconds: float) -> Rate:
    """Return how often something happens in an hour of trials.

    No event at all gives an upper end of 3.7 over the hours.

    Args:
        runs: Of each run, for each trial in order whether it happened; at least one trial in all.
        trial_seconds: Time between two trials.
    """
    trials, count = sum(map(len, runs)), sum(map(sum, runs))
    hours, spread = trials * trial_seconds / SECONDS_PER_HOUR, dispersion(runs)
    low, high = poisson_interval(count, spread)
    # No more than every trial can be one.
    return Rate(count, trials, hours, (low / hours, min(high, trials) / hours), spread)


def poisson_interval(count: int, dispersion: float = 1.0) -> tuple[float, float]:
    """Return the exact 95 % interval of the mean of a Poisson count, for as many events as a dispersion leaves.

    Source: Garwood, Biometrika 28 (1936), by quantiles of chi-square.
    """
    # Half a second of import that floors, records and the start of every command can do without.
    from scipy.stats import chi2

    events, miss = count / dispersion, (1 - CONFIDENCE) / 2
    low = float(chi2.ppf(miss, 2 * events)) / 2 if count else 0.0
    return dispersion * low, dispersion * float(chi2.ppf(1 - miss, 2 * events + 2)) / 2


def dispersion(runs: Sequence[Sequence[bool]]) -> float:
    """Return how many times more a count varies between stretches, or runs, than one of independent trials; at least 1.

    The larger of the two holds: Pearson's chi-square over its degrees of freedom.
    """
    stretches = [stretch for run in runs for stretch in _stretches(run)]
    return max(1.0, _scatter(stretches), _scatter(runs))


def _stretches(run: Sequence[bool]) -> list[Sequence[bool]]:
    count = min(STRETCHES, len(run) // FEWEST_IN_STRETCH)
    ends = [len(run) * place // count for place in range(count + 1)] if count else []
    return [run[begin:end] for begin, end in pairwise(ends)]


def _scatter(groups: Sequence[Sequence[bool]]) -> float:
    trials, count = sum(map(len, groups)), sum(map(sum, groups))
    if len(groups) < 2 or count in (0, trials):
        return 1.0
    share = count / trials
    squares = ((sum(group) - share * len(group)) ** 2 / (share * (1 - share) * len(group)) for group in groups if group)
    return sum(squares) / (len(groups) - 1)


def _rank(level: float, count: int) -> int:
    # A product such as 0.99 times 100 may come out above 99.
    return math.ceil(level * count - 1e-9)


def _rank_interval(count: int, level: float, spread: float) -> tuple[int | None, int | None]:
    """Return the ranks of the ends, from 1 on; None for an end that so few values cannot give."""
    from scipy.stats import binom

    miss, effective = (1 - CONFIDENCE) / 2, max(1, int(count / spread))

    def rank(share: float) -> Any:
        return binom.ppf(share, effective, level)

    low, high = int(rank(miss)), int(rank(1 - miss)) + 1
    scaled_low = low * count // effective
    scaled_high = -(-high * count // effective)
    return scaled_low or None, scaled_high if high <= effective else None
