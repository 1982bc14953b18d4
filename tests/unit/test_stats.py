from dataclasses import dataclass
from statistics import median

import numpy as np
import pytest
from scipy.stats import bootstrap

from memfloor.stats import (
    Ratio,
    bootstrap_interval,
    coefficient_of_variation,
    estimate,
    estimate_of,
    paired_ratio,
    verdict,
)


@dataclass
class FakeRun:
    step_seconds: list[float]


def _median_step(run):
    return median(run.step_seconds)


def test_the_estimate_is_the_median_over_runs():
    runs = [FakeRun([1.0, 2.0, 3.0]), FakeRun([4.0, 5.0, 6.0]), FakeRun([50.0, 60.0, 70.0])]
    result = estimate(runs, _median_step)
    assert result.value == 5.0
    assert result.runs == 3
    assert result.ci95 == (2.0, 60.0)


@pytest.mark.parametrize("size", [2, 3, 5, 8, 11, 20])
def test_intervals_counted_by_ranks_are_those_of_scipys_bootstrap(size):
    # Some values are equal, and they are not in order.
    values = np.round(np.random.default_rng(size).lognormal(size=size), 1)
    want = bootstrap((values,), np.median, n_resamples=9999, method="percentile", rng=np.random.default_rng(0))
    assert estimate_of(values.tolist()).ci95 == pytest.approx(tuple(want.confidence_interval))
    blocks = {block: float(value) for block, value in enumerate(values)}
    logs = bootstrap(
        (np.log(values),), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert bootstrap_interval(blocks, dict.fromkeys(blocks, 1.0)) == pytest.approx(tuple(np.exp(logs)))


def test_one_run_gives_no_interval():
    result = estimate([FakeRun([1.0])], _median_step)
    assert (result.value, result.ci95) == (1.0, None)
    assert coefficient_of_variation([FakeRun([1.0])], _median_step) is None


def test_no_run_is_an_error():
    with pytest.raises(ValueError, match="at least one run"):
        estimate([], _median_step)


def test_equal_runs_give_an_interval_of_no_width():
    assert estimate([FakeRun([2.0])] * 4, _median_step).ci95 == (2.0, 2.0)


def test_the_same_runs_always_give_the_same_interval():
    runs = [FakeRun([value]) for value in np.random.default_rng(1).normal(1, 0.1, 10)]
    assert estimate(runs, _median_step) == estimate(runs, _median_step)


def test_more_steps_of_the_same_run_do_not_narrow_the_interval():
    few = [FakeRun([value] * 3) for value in (1.0, 1.1, 1.2, 1.3)]
    many = [FakeRun([value] * 3000) for value in (1.0, 1.1, 1.2, 1.3)]
    assert estimate(few, _median_step).ci95 == estimate(many, _median_step).ci95


def test_coefficient_of_variation_by_hand():
    runs = [FakeRun([1.0]), FakeRun([3.0])]
    assert coefficient_of_variation(runs, _median_step) == pytest.approx(2**0.5 / 2)


def test_the_interval_over_ten_runs_covers_a_run_to_run_offset():
    """A pooled-step interval covers the truth about a third of the time here; one over runs must do far better."""
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(40):
        runs = [FakeRun([generator.normal(1.0, 0.002)]) for _ in range(10)]
        low, high = estimate(runs, _median_step).ci95
        covered += low <= 1.0 <= high
    assert covered >= 33


@pytest.mark.parametrize(
    ("ci95", "expected"),
    [
        ((0.99, 1.01), "equivalent"),
        ((1.001, 1.015), "equivalent"),
        ((1.001, 1.03), "faster"),
        ((1.2, 1.3), "faster"),
        ((0.8, 0.9), "slower"),
        ((0.9, 1.1), "unclear"),
        (None, "unclear"),
    ],
)
def test_a_verdict_needs_an_interval_that_excludes_1_or_lies_within_the_margin(ci95, expected):
    assert verdict(Ratio(value=1.0, ci95=ci95, blocks=3), margin=0.02) == expected


def test_a_paired_ratio_has_a_t_interval_at_any_number_of_blocks_and_a_narrower_bootstrap_beside_it():
    logs = np.random.default_rng(3).normal(0.2, 0.05, 10)
    arms = dict(enumerate(np.exp(logs))), dict.fromkeys(range(10), 1.0)
    ratio = paired_ratio(*arms)
    # t of nine degrees of freedom, from a table.
    half = 2.262157 * np.std(logs, ddof=1) / 10**0.5
    assert ratio.ci95 == pytest.approx((np.exp(logs.mean() - half), np.exp(logs.mean() + half)))
    low, high = bootstrap_interval(*arms)
    assert ratio.ci95[0] < low < ratio.value < high < ratio.ci95[1]
    assert bootstrap_interval({0: 2.0}, {0: 1.0}) is None
    with pytest.raises(ValueError, match="both arms have"):
        bootstrap_interval({0: 2.0}, {1: 1.0})
