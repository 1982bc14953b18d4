"""Did an intervention change only what it was meant to? Two arms compared by the traces of their steps.

Kernels are compared by name, not one by one: among a thousand some differ by chance. Intervals are over traced steps,
and widened for the number of names. Each arm is traced in one process, so what differs between processes shows too.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from memfloor.record import StepTrace
from memfloor.report.kernel_names import short_name, short_names
from memfloor.report.kernel_times import owned_seconds
from memfloor.report.matching import match_traces
from memfloor.stats import welch_half_width

# Kernels of one arm may differ so much in time from the same kernels of the other, and over the whole step.
TIME_TOLERANCE = 0.05
ERROR_RATE = 0.05
ALLOCATIONS = ("cudaMalloc", "cudaMallocAsync", "cudaFree", "cudaFreeAsync", "cuMemAlloc", "cuMemAllocAsync")
NAMED = 3
NO_ALLOCATOR = "memory: a trace on a CPU shows no allocations, so none were looked for"


@dataclass(frozen=True, slots=True)
class KernelChange:
    """Hold what kernels of one name own of a step in each arm; what overlaps belongs to the kernel that started first.

    Attributes:
        name: Of the kernels.
        baseline_seconds: Mean over the baseline's traced steps.
        candidate_seconds: The same of the candidate.
        interval: Of their ratio; None where one step gives none, or the baseline's kernels own no time.
        label: Its name in a few words, among the others of its step; None for a name by itself.
    """

    name: str
    baseline_seconds: float
    candidate_seconds: float
    interval: tuple[float, float] | None
    label: str | None = None

    @property
    def ratio(self) -> float | None:
        """Return the candidate's time over the baseline's; None where the baseline's kernels own no time."""
        return self.candidate_seconds / self.baseline_seconds if self.baseline_seconds else None

    @property
    def differs(self) -> bool:
        """Tell whether the whole interval lies beyond the tolerance."""
        if self.interval is None:
            return False
        return self.interval[1] < 1 / (1 + TIME_TOLERANCE) or self.interval[0] > 1 + TIME_TOLERANCE

    @property
    def same(self) -> bool:
        """Tell whether the whole interval lies within the tolerance."""
        if self.interval is None:
            return False
        return self.interval[0] >= 1 / (1 + TIME_TOLERANCE) and self.interval[1] <= 1 + TIME_TOLERANCE

    def __str__(self) -> str:
        if self.ratio is None or self.interval is None:
            return f"{self.label or short_name(self.name)}, no interval"
        return (
            f"{self.label or short_name(self.name)} {self.ratio:.3f} [{self.interval[0]:.3f}, {self.interval[1]:.3f}]"
        )


@dataclass(frozen=True, slots=True)
class Invariance:
    """Hold what two traces say of two arms.

    Attributes:
        kernels: By name, longest first; empty where the arms run different kernels, or met no bandwidth in common.
        confounders: What differs beside the launch, or may for all that is known; nothing if the launch is isolated.
        unobserved: What these traces cannot show.
    """

    kernels: tuple[KernelChange, ...]
    confounders: tuple[str, ...]
    unobserved: tuple[str, ...] = ()

    @property
    def changed(self) -> list[KernelChange]:
        """Return the kernels whose time differs beyond the tolerance, whether that matters for the step or not."""
        return [kernel for kernel in self.kernels if kernel.differs]


def compare_traces(baseline: StepTrace, candidate: StepTrace) -> Invariance:
    """Return what differs between two arms beside the launch.

    Compared are the kernels with how often each runs, the bytes each reads, allocations inside a step, and the times of
    the kernels: each name's, and those of the whole step, in steps that met one bandwidth. Names that differ count as a
    confounder where they move more than the tolerance of the time in kernels; that of the whole step also where its
    interval reaches beyond the tolerance.
    """
    allocations = list(_allocations(baseline, candidate))
    unobserved = (NO_ALLOCATOR,) if "cpu" in (baseline.device, candidate.device) else ()
    found = _kernels(baseline, candidate)
    if found:
        # The times and bytes of other kernels would say nothing.
        return Invariance((), (*found, *allocations), unobserved)
    others = (*_bytes(baseline, candidate), *allocations)
    matched = match_traces(baseline, candidate)
    if isinstance(matched, str):
        return Invariance((), (*others, f"times not comparable: {matched}"), unobserved)
    kernels = kernel_changes(*matched)
    return Invariance(kernels, (*others, *_times(*matched, kernels)), unobserved)


def kernel_changes(baseline: StepTrace, candidate: StepTrace) -> tuple[KernelChange, ...]:
    """Return how the time of each kernel name differs, longest first; the intervals hold for all names at once."""
    ours, theirs = name_seconds(baseline), name_seconds(candidate)
    level = ERROR_RATE / len(ours)
    labels = short_names(ours)
    changes = [replace(_change(name, ours[name], theirs[name], level), label=labels[name]) for name in ours]
    return tuple(sorted(changes, key=lambda change: -change.baseline_seconds))


def name_seconds(trace: StepTrace) -> dict[str, list[float]]:
    """Return the time that the kernels of each name own in each traced step."""
    steps = len(trace.step_seconds)
    owned: dict[str, list[float]] = {kernel.name: [0.0] * steps for kernel in trace.kernels}
    for step in range(steps):
        for kernel, seconds in zip(trace.kernels, owned_seconds(trace, step), strict=True):
            owned[kernel.name][step] += seconds
    return owned


def _change(name: str, ours: Sequence[float], theirs: Sequence[float], level: float) -> KernelChange:
    means = fmean(ours), fmean(theirs)
    half = welch_half_width(ours, theirs, level)
    if half is None or not means[0]:
        return KernelChange(name, *means, interval=None)
    interval = (means[1] - half) / means[0], (means[1] + half) / means[0]
    return KernelChange(name, *means, interval=interval)


def _kernels(baseline: StepTrace, candidate: StepTrace) -> list[str]:
    ours, theirs = (Counter(kernel.name for kernel in trace.kernels) for trace in (baseline, candidate))
    lost, new = ours - theirs, theirs - ours
    if not lost and not new:
        return []
    example = short_name(next(iter(new or lost)))
    return [f"kernels: {lost.total()} of {ours.total()} are gone and {new.total()} are new, {example} for one"]


def _bytes(baseline: StepTrace, candidate: StepTrace) -> Iterator[str]:
    reads: list[Counter[str]] = []
    for trace in (baseline, candidate):
        by_name: Counter[str] = Counter()
        for kernel in trace.kernels:
            by_name[kernel.name] += kernel.read_bytes
        reads.append(by_name)
    for name in sorted(reads[0]):
        if reads[0][name] != reads[1][name]:
            yield f"bytes: {short_name(name)} reads {reads[0][name]} and {reads[1][name]}"


def _allocations(baseline: StepTrace, candidate: StepTrace) -> Iterator[str]:
    for name, trace in (("baseline", baseline), ("candidate", candidate)):
        count = sum(trace.launches.get(call, 0) for call in ALLOCATIONS)
        if count:
            yield f"memory: the {name} calls the driver's allocator {count} times a step"


def _times(baseline: StepTrace, candidate: StepTrace, kernels: Sequence[KernelChange]) -> Iterator[str]:
    ours, theirs = (
        [sum(owned_seconds(trace, step)) for step in range(len(trace.step_seconds))] for trace in (baseline, candidate)
    )
    whole = _change("time in kernels", ours, theirs, ERROR_RATE)
    if whole.interval is None:
        yield "times: one traced step gives no interval"
    elif whole.differs:
        yield f"times: {whole} times the baseline's, more than {TIME_TOLERANCE:.0%} apart"
    elif not whole.same:
        yield f"times: not resolved, {whole} times the baseline's, may be more than {TIME_TOLERANCE:.0%} apart"
    changed = sorted((kernel for kernel in kernels if kernel.differs), key=_moved, reverse=True)
    share = sum(map(_moved, changed)) / whole.baseline_seconds
    if share > TIME_TOLERANCE:
        named = "; ".join(map(str, changed[:NAMED]))
        yield f"times: kernels of {len(changed)} names differ, by {share:.1%} of the time in kernels: {named}"


def _moved(kernel: KernelChange) -> float:
    return abs(kernel.candidate_seconds - kernel.baseline_seconds)
