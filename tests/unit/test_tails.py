import math

import pytest

from memfloor.tails import dispersion, poisson_interval, quantile, rate


def alternating(count):
    """Return values whose order says nothing: each stretch of them holds as many large ones as any other."""
    return [float(place * 37 % count) for place in range(count)]


def test_a_quantile_is_the_value_at_its_rank():
    values = [alternating(100)]
    assert [quantile(values, level).value for level in (0.5, 0.9, 0.99)] == [49.0, 89.0, 98.0]


def test_the_interval_of_a_median_is_between_the_ranks_that_the_binomial_gives():
    # Of 100 tosses 39 or fewer are heads with a probability of 1.8 %, and 40 or fewer with 2.8 %: the ends are the 40th
    # and the 61st value.
    found = quantile([alternating(100)], 0.5)
    assert (found.low, found.high) == (39.0, 60.0)


def test_a_tail_has_no_value_of_too_few_cycles_and_no_upper_end_of_a_few_more():
    few = quantile([alternating(999)], 0.999)
    assert (few.value, few.low, few.high, few.needed) == (None, None, None, 1000)
    some = quantile([alternating(1000)], 0.999)
    assert (some.value, some.high) == (998.0, None)
    # Of 3688 cycles all lie at or below the p99.9 with a probability below 2.5 %, of 3687 not.
    assert quantile([alternating(3687)], 0.999).high is None
    assert quantile([alternating(3688)], 0.999).high == 3687.0


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # Garwood's, as printed in tables of exact Poisson limits.
    [(0, 0.0, 3.689), (1, 0.0253, 5.572), (5, 1.623, 11.668), (10, 4.795, 18.390), (100, 81.364, 121.627)],
)
def test_the_poisson_interval_is_that_of_the_tables(count, low, high):
    assert poisson_interval(count) == pytest.approx((low, high), abs=6e-4)


def test_no_miss_in_an_hour_is_at_most_three_point_seven():
    found = rate([[False] * 36_000], 0.1)
    assert (found.count, found.trials, found.hours, found.per_hour) == (0, 36_000, 1.0, 0.0)
    assert found.ci95_per_hour == pytest.approx((0.0, -math.log(0.025)))


def test_there_are_no_more_misses_than_periods():
    found = rate([[True] * 600], 0.1)
    assert found.per_hour == pytest.approx(36_000)
    assert found.ci95_per_hour[1] == pytest.approx(36_000)


def test_misses_that_hang_together_widen_the_interval():
    # 20 misses in 2000 cycles: one in each of 20 stretches, or all of them in the first.
    spread = rate([[place % 100 == 50 for place in range(2000)]], 0.1)
    burst = rate([[place < 20 for place in range(2000)]], 0.1)
    assert spread.dispersion == 1.0
    # Chi-square by hand: (20 - 1)^2 / (0.99) in one stretch, 1 / 0.99 in 19 others, over 19 degrees of freedom.
    assert burst.dispersion == pytest.approx((19**2 + 19) / 0.99 / 19)
    assert spread.per_hour == burst.per_hour
    assert burst.ci95_per_hour[0] < spread.ci95_per_hour[0] < spread.ci95_per_hour[1] < burst.ci95_per_hour[1]


def test_runs_that_differ_widen_it_too_where_each_is_even_in_itself():
    even = [[place % 10 == 5 for place in range(200)], [place % 100 == 50 for place in range(200)]]
    # 20 and 2 of 200: 11 expected, chi-square (81 + 81) / (11 * 0.945), of one degree of freedom.
    assert dispersion(even) == pytest.approx(2 * 81 / (11 * (1 - 22 / 400)))
