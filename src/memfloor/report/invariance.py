"""Did an intervention change only what it was meant to? Two arms compared by the traces of their steps."""

from collections import Counter

from memfloor.record import StepTrace
from memfloor.report.kernel_times import exclusive_seconds

# Kernels of one arm may differ so much in time from the same kernels of the other, over the whole step.
TIME_TOLERANCE = 0.05
ALLOCATIONS = ("cudaMalloc", "cudaMallocAsync", "cudaFree", "cudaFreeAsync", "cuMemAlloc", "cuMemAllocAsync")


def confounders(baseline: StepTrace, candidate: StepTrace) -> list[str]:
    """Return what differs between the arms beside the launch; nothing if the launch is isolated.

    Compared are the kernels with how often each runs, their times, the bytes that each role reads, and allocations
    inside a step. Outputs are not compared.
    """
    found = [*_kernels(baseline, candidate), *_bytes(baseline, candidate), *_allocations(baseline, candidate)]
    # The times of other kernels would say nothing.
    return found or _times(baseline, candidate)


def _kernels(baseline: StepTrace, candidate: StepTrace) -> list[str]:
    ours, theirs = (Counter(kernel.name for kernel in trace.kernels) for trace in (baseline, candidate))
    lost, new = ours - theirs, theirs - ours
    if not lost and not new:
        return []
    example = next(iter(new or lost))[:60]
    return [f"kernels: {lost.total()} of {ours.total()} are gone and {new.total()} are new, {example} for one"]


def _bytes(baseline: StepTrace, candidate: StepTrace) -> list[str]:
    reads = []
    for trace in (baseline, candidate):
        by_role: Counter[str] = Counter()
        for kernel in trace.kernels:
            by_role[kernel.role] += kernel.read_bytes
        reads.append(by_role)
    roles = sorted(role for role in reads[0].keys() | reads[1].keys() if reads[0][role] != reads[1][role])
    return [f"bytes: {role} reads {reads[0][role]} and {reads[1][role]}" for role in roles]


def _allocations(baseline: StepTrace, candidate: StepTrace) -> list[str]:
    named = {"baseline": baseline, "candidate": candidate}
    counts = {name: sum(trace.launches.get(call, 0) for call in ALLOCATIONS) for name, trace in named.items()}
    return [
        f"memory: the {name} calls the driver's allocator {count} times a step"
        for name, count in counts.items()
        if count
    ]


def _times(baseline: StepTrace, candidate: StepTrace) -> list[str]:
    # Exclusive times: kernels may overlap in one arm and not in the other.
    ours, theirs = (sum(kernel_seconds(trace).values()) for trace in (baseline, candidate))
    if abs(theirs / ours - 1) <= TIME_TOLERANCE:
        return []
    return [f"time in kernels: {theirs / ours:.2f} times the baseline's, more than {TIME_TOLERANCE:.0%} apart"]


def kernel_seconds(trace: StepTrace) -> dict[str, float]:
    """Return the time that each kernel owns in a step, by name."""
    owned: dict[str, float] = {}
    for kernel, seconds in zip(trace.kernels, exclusive_seconds(trace), strict=True):
        owned[kernel.name] = owned.get(kernel.name, 0.0) + seconds
    return owned
