"""Cut a trace into steps and reduce each to the kernels it ran, with the operator and module each belongs to."""

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memfloor.errors import UsageError
from memfloor.trace.kineto import Span

STEP = "memfloor.step"
# Calls of the driver that make a kernel run.
LAUNCHES_KERNEL = re.compile(r"(cuda|cu)(LaunchKernel|LaunchCooperativeKernel|GraphLaunch)")
# Between a reading of the ceiling and a step; not looked at.
SETTLE = "memfloor.settle"
MODULE = "memfloor.module:"
CACHE_UPDATE = "cache.update"
# Operators that move no data: what they take belongs to the host.
NO_WORK = frozenset(
    "aten::" + name
    for name in (
        *("as_strided", "empty", "empty_strided", "empty_like", "resize_", "set_", "detach", "alias"),
        *(
            "view",
            "reshape",
            "expand",
            "expand_as",
            "select",
            "slice",
            "t",
            "transpose",
            "permute",
            "squeeze",
            "unsqueeze",
        ),
        *(
            "_unsafe_view",
            "view_as",
            "result_type",
            "resolve_conj",
            "resolve_neg",
            "to",
            "item",
            "is_nonzero",
            "narrow",
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """Hold one kernel of one step; on a CPU an operator, with the time it does not spend in others.

    Attributes:
        name: Its name.
        start: Seconds since the start of the first kernel, or on a CPU of the step.
        seconds: Duration.
        launch: When the host launched it, in seconds on the same time line; None on a CPU.
        ops: The operators around it, outermost first.
        scope: The innermost annotated module around it, or nothing.
    """

    name: str
    start: float
    seconds: float
    launch: float | None
    ops: tuple[str, ...]
    scope: str

    @property
    def end(self) -> float:
        """Return the end in seconds on the same time line."""
        return self.start + self.seconds


@dataclass(frozen=True, slots=True)
class TracedStep:
    """Hold one step.

    Attributes:
        seconds: On a GPU from the start of the first kernel to the end of the last one, on a CPU the whole step.
        lead: From the step's start on the host to the start of the first kernel.
        kernels: By start.
        launches: Calls of the driver by name.
        issued: From the step's start on the host to the return of its call; None on a CPU.
    """

    seconds: float
    lead: float
    kernels: tuple[Kernel, ...]
    launches: dict[str, int]
    issued: float | None = None


def cut_steps(spans: Sequence[Span], device: str) -> list[TracedStep]:
    """Return the annotated steps of a trace, in order.

    Args:
        spans: All spans, by start.
        device: `cpu` or `cuda`: whose kernels count.

    Raises:
        UsageError: No step is annotated, a step has no kernels, or streams overlap, or kernels are
            missing.
    """
    markers = [span for span in spans if span.category == "annotation" and span.name == STEP]
    if not markers:
        raise UsageError(f"the trace marks no step; allowed: traces of `memfloor anatomy`, which annotates {STEP!r}")
    if device == "cpu":
        return [_cpu_step(marker, spans) for marker in markers]
    kernels: dict[int, list[Span]] = defaultdict(list)
    for span in spans:
        if span.category == "kernel" and span.correlation is not None:
            kernels[span.correlation].append(span)
    if not kernels:
        raise UsageError("the trace has no device rows: the profiler could not record kernels here")
    return [_cuda_step(marker, spans, kernels) for marker in markers]


def _cuda_step(marker: Span, spans: Sequence[Span], kernels: dict[int, list[Span]]) -> TracedStep:
    stack = _Stack()
    launches: Counter[str] = Counter()
    lost = 0
    found: list[tuple[Span, Span, tuple[str, ...], str]] = []
    for span in _within(marker, spans):
        if span.category == "launch":
            launches[span.name] += 1
            ops, scope = stack.around(span)
            launched = kernels.get(span.correlation or -1, ())
            lost += not launched and LAUNCHES_KERNEL.match(span.name) is not None
            found += [(kernel, span, ops, scope) for kernel in launched]
        else:
            stack.push(span)
    if not found:
        raise UsageError("a step of the trace launched no kernel")
    if lost:
        raise UsageError(f"{lost} launches of a step have no kernel in the trace: its buffers ran over, or it was cut")
    found.sort(key=lambda item: item[0].start)
    _refuse_overlapping_streams([item[0] for item in found])
    first, end = found[0][0].start, max(kernel.end for kernel, *_ in found)
    return TracedStep(
        seconds=end - first,
        lead=first - marker.start,
        kernels=tuple(
            Kernel(kernel.name, kernel.start - first, kernel.seconds, launch.start - first, ops, scope)
            for kernel, launch, ops, scope in found
        ),
        launches=dict(launches),
        issued=marker.seconds,
    )


def _cpu_step(marker: Span, spans: Sequence[Span]) -> TracedStep:
    stack = _Stack()
    found: list[tuple[Span, tuple[str, ...], str]] = []
    # By the start and end of an operator, the time of those it calls.
    inner: dict[tuple[float, float], float] = defaultdict(float)
    for span in _within(marker, spans):
        if span.category == "op":
            ops, scope = stack.around(span)
            caller = stack.innermost_op()
            if caller is not None:
                inner[caller.start, caller.end] += span.seconds
            found.append((span, (*ops, span.name), scope))
        stack.push(span)
    kernels = tuple(
        Kernel(
            span.name, span.start - marker.start, max(0.0, span.seconds - inner[span.start, span.end]), None, ops, scope
        )
        for span, ops, scope in found
        if span.name not in NO_WORK
    )
    if not kernels:
        raise UsageError("a step of the trace called no operator")
    return TracedStep(seconds=marker.seconds, lead=0.0, kernels=kernels, launches={})


class _Stack:
    """The operators and annotated modules that are open on the step's thread."""

    def __init__(self) -> None:
        self._open: list[Span] = []

    def push(self, span: Span) -> None:
        self._close(span.start)
        self._open.append(span)

    def around(self, span: Span) -> tuple[tuple[str, ...], str]:
        """Return the names of the operators around a span, outermost first, and the innermost module's name."""
        self._close(span.start)
        ops = tuple(item.name for item in self._open if item.category == "op")
        scopes = [item.name.removeprefix(MODULE) for item in self._open if item.name.startswith(MODULE)]
        return ops, scopes[-1] if scopes else ""

    def innermost_op(self) -> Span | None:
        """Return the operator that is running, if any."""
        return next((item for item in reversed(self._open) if item.category == "op"), None)

    def _close(self, time: float) -> None:
        while self._open and self._open[-1].end <= time:
            self._open.pop()


def _within(marker: Span, spans: Sequence[Span]) -> Iterator[Span]:
    """Give what the step's thread did inside the marker, by start."""
    first = bisect_right(spans, marker.start, key=lambda span: span.start)
    for span in spans[first:]:
        if span.start >= marker.end:
            return
        if span.category != "kernel" and span.lane == marker.lane:
            yield span


def _refuse_overlapping_streams(kernels: Sequence[Span]) -> None:
    ends: dict[int, float] = {}
    for kernel in kernels:
        for stream, end in ends.items():
            if stream != kernel.lane and end > kernel.start:
                raise UsageError(f"kernels of streams {stream} and {kernel.lane} overlap: a step has one stream")
        ends[kernel.lane] = max(ends.get(kernel.lane, 0.0), kernel.end)
