"""Estimates with intervals; the run, not the step, is what is resampled.

Steps of one process share its luck (memory layout, neighbours, clocks), so pooling them gives intervals that are far
too narrow. Every function here takes runs. Source: docs/method.md.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import combinations
from statistics import fmean, median, stdev, variance
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 9999
CONFIDENCE = 0.95
TAILS = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


class TimedRun(Protocol):
    """One run, seen by its timed steps."""

    @property
    def step_seconds(self) -> Sequence[float]:
        """Return the timed steps in order."""


R = TypeVar("R", bound=TimedRun)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Hold the median over runs of a value and its 95 % interval; None where one run cannot give an interval."""

    value: float
    ci95: tuple[float, float] | None
    runs: int

    def times(self, factor: float) -> "Estimate":
        """Return the estimate of the value times a constant above zero."""
        interval = None if self.ci95 is None else (factor * self.ci95[0], factor * self.ci95[1])
        return replace(self, value=factor * self.value, ci95=interval)


def estimate(runs: Sequence[R], value: Callable[[R], float]) -> Estimate:
    """Return the median over runs of a per-run value, with a percentile bootstrap interval over runs.

    Args:
        runs: One or more runs of the same cell.
        value: What to read off each run, such as its median step or its fraction of the paired ceiling.
    """
    return estimate_of([value(run) for run in runs])


def estimate_of(values: Sequence[float]) -> Estimate:
    """Return the same from what was read off each run already.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("an estimate needs at least one run")
    return Estimate(value=median(values), ci95=_median_interval(values), runs=len(values))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Hold a ratio of two arms paired by block: the geometric mean over blocks and its 95 % interval.

    Attributes:
        value: Geometric mean of the blocks' ratios.
        ci95: A t interval on the logarithms; None for a single block.
        blocks: Blocks that both arms have; of runs without blocks, those of the side that has fewer.
    """

    value: float
    ci95: tuple[float, float] | None
    blocks: int

    def __str__(self) -> str:
        interval = f" [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}]" if self.ci95 else ""
        return f"{self.value:.3f}{interval}"


def paired_ratio(numerator: Mapping[int, float], denominator: Mapping[int, float]) -> Ratio:
    """Return the ratio of two arms of an interleaved comparison.

    Args:
        numerator: By block, the value of one arm, above zero.
        denominator: By block, that of the other; blocks that only one arm has are left out.

    Raises:
        ValueError: The arms share no block.
    """
    logs = _log_ratios(numerator, denominator)
    return Ratio(value=math.exp(float(np.mean(logs))), ci95=_exp(_t_interval(logs)), blocks=len(logs))


def unpaired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """Return the ratio of two sets of runs that share no blocks: geometric means, with Welch's interval on logarithms.

    Args:
        numerator: Of each run of one set, a value above zero.
        denominator: The same of the other.

    Raises:
        ValueError: A set is empty.
    """
    if not numerator or not denominator:
        raise ValueError("a ratio needs a run on both sides")
    ours, theirs = np.log(numerator), np.log(denominator)
    middle = float(np.mean(ours) - np.mean(theirs))
    half = welch_half_width(ours.tolist(), theirs.tolist(), 1 - CONFIDENCE)
    interval = None if half is None else (middle - half, middle + half)
    return Ratio(value=math.exp(middle), ci95=_exp(interval), blocks=min(len(numerator), len(denominator)))


def welch_half_width(ours: Sequence[float], theirs: Sequence[float], level: float) -> float | None:
    """Return half of Welch's interval of a difference of means; None where a side has fewer than two values.

    Args:
        ours: Values of one side.
        theirs: Values of the other.
        level: Share of intervals that may miss.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    parts = [variance(values) / len(values) for values in (ours, theirs)]
    if not sum(parts):
        return 0.0
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (ours, theirs), strict=True)
    )
    return _t_quantile(1 - level / 2, freedom) * math.sqrt(sum(parts))


def bootstrap_interval(numerator: Mapping[int, float], denominator: Mapping[int, float]) -> tuple[float, float] | None:
    """Return the study's interval of a paired ratio, a 95 % percentile bootstrap over blocks; None for a single block.

    It is narrower than the t interval, and the truth lies within it less often: docs/method.md.

    Args:
        numerator: As `paired_ratio` takes it.
        denominator: As `paired_ratio` takes it.

    Raises:
        ValueError: The arms share no block.
    """
    return _exp(_mean_interval(_log_ratios(numerator, denominator)))


def _log_ratios(numerator: Mapping[int, float], denominator: Mapping[int, float]) -> NDArray[np.float64]:
    shared = sorted(numerator.keys() & denominator.keys())
    if not shared:
        raise ValueError("a paired ratio needs a block that both arms have")
    return np.log([numerator[block] / denominator[block] for block in shared])


def _exp(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (math.exp(interval[0]), math.exp(interval[1]))


@dataclass(frozen=True, slots=True)
class BlockMean:
    """Hold the mean over blocks of a value that each block gives, and its 95 % interval, as of a `Ratio`."""

    value: float
    ci95: tuple[float, float] | None
    blocks: int


def block_mean(values: Sequence[float]) -> BlockMean:
    """Return the mean of what each block of a comparison gives, with a t interval over blocks.

    Raises:
        ValueError: There is no block.
    """
    if not values:
        raise ValueError("a mean over blocks needs a block")
    return BlockMean(value=fmean(values), ci95=_t_interval(np.asarray(values)), blocks=len(values))


def verdict(speedup: Ratio, margin: float) -> str:
    """Return what a speed-up says: `equivalent` within the margin, `faster`, `slower`, or `unclear`.

    Args:
        speedup: Baseline time over candidate time.
        margin: Share by which two arms may differ and still be called equivalent, such as 0.02.
    """
    if speedup.ci95 is None:
        return "unclear"
    low, high = speedup.ci95
    if 1 / (1 + margin) <= low and high <= 1 + margin:
        return "equivalent"
    if low > 1:
        return "faster"
    return "slower" if high < 1 else "unclear"


def block_samples(blocks: Sequence[int], size: int, most: int) -> list[tuple[int, ...]]:
    """Return every sample of so many blocks, or where there are more than `most` of them, `most` drawn at random.

    A sample holds a block once; the same arguments give the same samples.
    """
    if math.comb(len(blocks), size) <= most:
        return list(combinations(blocks, size))
    draw = random.Random(0)
    return [tuple(draw.sample(blocks, size)) for _ in range(most)]


def coefficient_of_variation(runs: Sequence[R], value: Callable[[R], float]) -> float | None:
    """Return the standard deviation over runs of a per-run value, over its mean; None for fewer than two runs."""
    return spread_of([value(run) for run in runs])


def spread_of(values: Sequence[float]) -> float | None:
    """Return the standard deviation of values over their mean; None for fewer than two."""
    return stdev(values) / fmean(values) if len(values) > 1 else None


def _t_interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    half = _t_quantile((1 + CONFIDENCE) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


@cache
def _t_quantile(level: float, freedom: float) -> float:
    """Return a quantile of Student's distribution, without `scipy.stats`, whose import takes half a second."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, level))


def _mean_interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    low, high = np.percentile(np.mean(values[_draws(len(values))], axis=1), [100 * tail for tail in TAILS])
    return float(low), float(high)


def _median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of a median.

    The median of a sample is made of two of the values, and which two depends on their ranks alone: how often each pair
    comes up is counted once for each number of values, not once for each of a store's thousands of intervals.
    """
    if len(values) < 2:
        return None
    lower, upper, times = _middle_ranks(len(values))
    ranked = np.sort(values)
    medians = (ranked[lower] + ranked[upper]) / 2
    order = np.argsort(medians)
    ends = np.cumsum(times[order])
    low, high = (_percentile(medians[order], ends, tail) for tail in TAILS)
    return low, high


def _percentile(medians: NDArray[np.float64], ends: NDArray[np.int64], share: float) -> float:
    """Return a percentile of medians, in order, of which each fills the places up to its end."""
    place = share * (RESAMPLES - 1)
    below, above = medians[np.searchsorted(ends, (int(place), int(place) + 1), side="right")]
    return float(below + (above - below) * (place - int(place)))


@lru_cache(maxsize=4)
def _draws(size: int) -> NDArray[np.int64]:
    """Return the places that each resample of so many values takes [RESAMPLES, size], always the same."""
    return np.random.default_rng(0).integers(0, size, (RESAMPLES, size))


@cache
def _middle_ranks(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of ranks that medians of resamples are the mean of, lower and upper, and how often they are."""
    ranks = np.sort(_draws(size), axis=1)
    pairs, times = np.unique(ranks[:, [(size - 1) // 2, size // 2]], axis=0, return_counts=True)
    return pairs[:, 0], pairs[:, 1], times
