import pytest

from memfloor.record import CeilingReading, StepTrace, TracedKernel
from memfloor.report.invariance import compare_traces, kernel_changes, name_seconds


def trace(*kernels, launches=None, steps=(1.0, 1.0)):
    """Make a trace whose steps take the kernels' times so many times."""
    made, start = [], 0.0
    for name, seconds, read_bytes in kernels:
        made.append(
            TracedKernel(
                name=name,
                op=name,
                role="weights",
                read_bytes=read_bytes,
                start_seconds=[start * factor for factor in steps],
                seconds=[seconds * factor for factor in steps],
                launch_seconds=[0.0] * len(steps),
            )
        )
        start += seconds
    whole = [start * factor for factor in steps]
    return StepTrace(
        tool="t", device="cuda", step_seconds=whole, kernels=made, launches=launches or {}, labelled="plan"
    )


A, B = ("a", 0.010, 100), ("b", 0.002, 0)


def test_the_same_kernels_in_another_order_are_isolated():
    found = compare_traces(trace(A, B, A), trace(B, A, A))
    assert found.confounders == ()
    assert found.changed == []


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (trace(A), "1 of 2 are gone and 0 are new"),
        (trace(A, B, B), "0 of 2 are gone and 1 are new, b for one"),
        (trace(A, ("c", 0.002, 0)), "1 of 2 are gone and 1 are new, c for one"),
        (trace(("a", 0.010, 50), B), "bytes: a reads 100 and 50"),
        (trace(A, B, launches={"cudaMalloc": 2}), "the candidate calls the driver's allocator 2 times"),
        # 12 ms become 12.8: 6.7 % of the step, and of its kernels a alone, by 8 %.
        (trace(("a", 0.0108, 100), B), "times: time in kernels 1.067 [1.067, 1.067] times the baseline's"),
        (
            trace(("a", 0.0108, 100), B),
            "kernels of 1 names differ, by 6.7% of the time in kernels: a 1.080 [1.080, 1.080]",
        ),
        # One takes longer by as much as the other takes less: the step alone would not show it.
        (trace(("a", 0.0092, 100), ("b", 0.0028, 0)), "kernels of 2 names differ, by 13.3%"),
        (trace(A, B, steps=(1.0,)), "one traced step gives no interval"),
    ],
)
def test_what_else_changed_is_named(candidate, words):
    assert any(words in item for item in compare_traces(trace(A, B), candidate).confounders)


def test_a_small_kernel_that_changed_is_named_and_does_not_confound():
    found = compare_traces(trace(A, B), trace(A, ("b", 0.0024, 0)))
    assert found.confounders == ()
    assert [str(kernel) for kernel in found.changed] == ["b 1.200 [1.200, 1.200]"]


def test_an_interval_that_reaches_beyond_the_tolerance_isolates_nothing():
    # The mean is 8 % longer; the steps of each arm spread by as much.
    (said,) = compare_traces(trace(A, B, steps=(0.9, 1.1)), trace(A, B, steps=(0.95, 1.21))).confounders
    assert said.startswith("times: not resolved, time in kernels 1.080 [")
    # 1 % apart with an interval from -1 to +3 % lies inside.
    ours, theirs = (trace(A, B, steps=[middle * (1 + 0.01 * n) for n in (-1, 0, 1)]) for middle in (1.0, 1.01))
    assert compare_traces(ours, theirs).confounders == ()


def beside(made, *rates):
    """Say which bandwidth each traced step met."""
    pairs = [
        (CeilingReading(after_steps=0, pass_bytes=100, pass_seconds=(100 / rate,), method="t"),) * 2 for rate in rates
    ]
    return made.model_copy(update={"device": "cpu", "ceilings": pairs})


def test_times_are_compared_in_steps_that_met_one_bandwidth():
    # The candidate met the slow state in three of its six steps, where everything takes twice as long.
    ours = beside(trace(A, B, steps=(1.0,) * 3), 50, 50, 50)
    theirs = beside(trace(A, B, steps=(2.0, 1.0) * 3), 30, 50, 30, 50, 30, 50)
    found = compare_traces(ours, theirs)
    assert (found.confounders, [kernel.ratio for kernel in found.kernels]) == ((), [1.0, 1.0])
    assert found.unobserved == ("memory: a trace on a CPU shows no allocations, so none were looked for",)
    (said,) = compare_traces(ours, beside(trace(A, B, steps=(2.0,) * 3), 30, 30, 30)).confounders
    assert said == (
        "times not comparable: 3 baseline steps met a steady one, 50 B/s to 50 B/s, "
        "3 candidate steps met a steady one, 30 B/s to 30 B/s"
    )


def test_the_interval_is_welchs_and_widened_for_the_number_of_names():
    from scipy.stats import ttest_ind

    ours, theirs = (0.9, 1.0, 1.1), (1.0, 1.3, 1.2)
    first, second = kernel_changes(trace(A, B, steps=ours), trace(A, B, steps=theirs))
    whole = ttest_ind(theirs, ours, equal_var=False).confidence_interval(1 - 0.05 / 2)
    assert first.interval == pytest.approx((1 + whole.low, 1 + whole.high))
    assert second.interval == pytest.approx(first.interval)


def test_kernels_of_one_name_share_their_time_and_overlap_counts_once():
    assert name_seconds(trace(A, B, A)) == {"a": pytest.approx([0.020] * 2), "b": pytest.approx([0.002] * 2)}
    hidden = trace(A, B)
    late = hidden.kernels[1].model_copy(update={"start_seconds": (0.009, 0.009)})
    overlapping = hidden.model_copy(update={"kernels": (hidden.kernels[0], late)})
    assert name_seconds(overlapping)["b"] == pytest.approx([0.001] * 2)
