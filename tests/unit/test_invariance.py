import pytest

from memfloor.record import StepTrace, TracedKernel
from memfloor.report.invariance import confounders, kernel_seconds


def trace(*kernels, launches=None):
    made, start = [], 0.0
    for name, seconds, read_bytes in kernels:
        made.append(
            TracedKernel(
                name=name,
                op=name,
                role="weights",
                read_bytes=read_bytes,
                start_seconds=(start,),
                seconds=(seconds,),
                launch_seconds=(0.0,),
            )
        )
        start += seconds
    return StepTrace(
        tool="t", device="cuda", step_seconds=(start,), kernels=made, launches=launches or {}, labelled="plan"
    )


A, B = ("a", 0.010, 100), ("b", 0.002, 0)


def test_the_same_kernels_in_another_order_are_isolated():
    assert confounders(trace(A, B, A), trace(B, A, A)) == []


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (trace(A), "1 of 2 are gone and 0 are new"),
        (trace(A, B, B), "0 of 2 are gone and 1 are new, b for one"),
        (trace(A, ("c", 0.002, 0)), "1 of 2 are gone and 1 are new, c for one"),
        (trace(("a", 0.010, 50), B), "bytes: weights reads 100 and 50"),
        (trace(A, B, launches={"cudaMalloc": 2}), "the candidate calls the driver's allocator 2 times"),
        (trace(("a", 0.011, 100), B), "time in kernels: 1.08 times"),
    ],
)
def test_what_else_changed_is_named(candidate, words):
    (found,) = confounders(trace(A, B), candidate)
    assert words in found


def test_times_within_the_tolerance_are_the_same():
    assert confounders(trace(A, B), trace(("a", 0.0104, 100), B)) == []


def test_kernels_of_one_name_share_their_time():
    assert kernel_seconds(trace(A, B, A)) == {"a": pytest.approx(0.020), "b": pytest.approx(0.002)}
