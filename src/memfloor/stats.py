"""Estimates with intervals; the run, not the step, is what is resampled.

Steps of one process share its luck (memory layout, neighbours, clocks), so pooling them gives intervals that are far
too narrow. Every function here takes runs. Source: docs/method.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Protocol, TypeVar

import numpy as np

RESAMPLES = 9999
CONFIDENCE = 0.95


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


def estimate(runs: Sequence[R], value: Callable[[R], float]) -> Estimate:
    """Return the median over runs of a per-run value, with a percentile bootstrap interval over runs.

    Args:
        runs: One or more runs of the same cell.
        value: What to read off each run, such as its median step or its fraction of the paired ceiling.
    """
    values = [value(run) for run in runs]
    if not values:
        raise ValueError("an estimate needs at least one run")
    return Estimate(value=median(values), ci95=_bootstrap_median(values), runs=len(values))


def coefficient_of_variation(runs: Sequence[R], value: Callable[[R], float]) -> float | None:
    """Return the standard deviation over runs of a per-run value, over its mean; None for fewer than two runs."""
    values = [value(run) for run in runs]
    return stdev(values) / fmean(values) if len(values) > 1 else None


def _bootstrap_median(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    # Half a second of import that floors, records and the start of every command can do without.
    from scipy.stats import bootstrap

    result = bootstrap(
        (np.asarray(values),),
        np.median,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        # The same records must always give the same interval.
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
