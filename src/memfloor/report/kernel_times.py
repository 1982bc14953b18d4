"""The times of a traced step: what each kernel owns, what none does, and what a queue makes of their launches."""

from itertools import repeat
from statistics import median

from memfloor.record import Role, StepTrace


def queued_seconds(trace: StepTrace, issue_seconds: float) -> float:
    """Return the time of a step whose kernels run as traced, each when it is launched and the one before has ended.

    Args:
        trace: Of a step whose kernels are launched one by one; it gives the pattern of the launches.
        issue_seconds: The time in which the host launches the step without a profiler.
    """
    lead = median(trace.lead_seconds)
    slower = traced_issue_seconds(trace) / issue_seconds
    latency = min(
        start - launch
        for kernel in trace.kernels
        for start, launch in zip(kernel.start_seconds, kernel.launch_seconds, strict=True)
    )
    end = 0.0
    for kernel, seconds in zip(trace.kernels, exclusive_seconds(trace), strict=True):
        launched = (lead + median(kernel.launch_seconds)) / slower + latency
        end = max(end, launched) + seconds
    return end


def traced_issue_seconds(trace: StepTrace) -> float:
    """Return the time in which the host launched a traced step; old records have only that of the last launch."""
    if trace.issue_seconds:
        return median(trace.issue_seconds)
    return median(trace.lead_seconds) + max(median(kernel.launch_seconds) for kernel in trace.kernels)


def role_seconds(trace: StepTrace) -> dict[Role, float]:
    """Return the time that kernels of each role own; their sum is the time in which any kernel runs."""
    owned: dict[Role, float] = {}
    for kernel, seconds in zip(trace.kernels, exclusive_seconds(trace), strict=True):
        owned[kernel.role] = owned.get(kernel.role, 0.0) + seconds
    return owned


def exclusive_seconds(trace: StepTrace) -> list[float]:
    """Return the time that each kernel owns, the median over traced steps."""
    steps = map(owned_seconds, repeat(trace), range(len(trace.step_seconds)))
    return [median(kernel) for kernel in zip(*steps, strict=True)]


def gap_seconds(trace: StepTrace) -> float:
    """Return the time of a traced step in which no kernel runs, the median over traced steps."""
    return median(seconds - sum(owned_seconds(trace, step)) for step, seconds in enumerate(trace.step_seconds))


def owned_seconds(trace: StepTrace, step: int) -> list[float]:
    """Return each kernel's time in one step beyond the end of all kernels before it: some overlap on a GPU."""
    if trace.device == "cpu":
        return [kernel.seconds[step] for kernel in trace.kernels]
    owned, last = [], 0.0
    for kernel in trace.kernels:
        start, end = kernel.start_seconds[step], kernel.start_seconds[step] + kernel.seconds[step]
        owned.append(max(0.0, end - max(last, start)))
        last = max(last, end)
    return owned
