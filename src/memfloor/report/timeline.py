"""Which traced step and part of it are drawn, in which order, and on which row each kernel lies."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median_low

from memfloor.record import Anatomy, StepTrace, TracedKernel
from memfloor.report.ledger import Ledger

# Starts and durations are rounded to less than this; what overlaps by less does not overlap.
ROUNDING_SECONDS = 2e-9


@dataclass(frozen=True, slots=True)
class Bar:
    """Hold one kernel as it is drawn.

    Attributes:
        kernel: What ran.
        start_seconds: Since the start of the step's first kernel, or of the step on a CPU.
        seconds: How long.
        row: The first row on which no kernel before it still runs, from 0.
    """

    kernel: TracedKernel
    start_seconds: float
    seconds: float
    row: int

    @property
    def end_seconds(self) -> float:
        """Return the end on the same time line."""
        return self.start_seconds + self.seconds


def slowest_first(ledgers: Iterable[Ledger]) -> list[Ledger]:
    """Return ledgers by device, model and context, and those of one by their steps, the longest first."""

    def place(ledger: Ledger) -> tuple[str, str, int, float]:
        device, cell = ledger.anatomies[0].environment.device.name, ledger.anatomies[0].cell
        return device, cell.spec.name, cell.workload.context_len, -ledger.step_seconds.value

    return sorted(ledgers, key=place)


def typical_step(trace: StepTrace) -> int:
    """Return the index of the traced step that took the median time."""
    return trace.step_seconds.index(median_low(trace.step_seconds))


def bars(kernels: Sequence[TracedKernel], step: int) -> list[Bar]:
    """Return kernels by their start in one traced step, each on the first row that is free."""
    ends: list[float] = []
    result = []
    for kernel in sorted(kernels, key=lambda kernel: kernel.start_seconds[step]):
        start, seconds = kernel.start_seconds[step], kernel.seconds[step]
        row = next((row for row, end in enumerate(ends) if end <= start + ROUNDING_SECONDS), len(ends))
        ends[row : row + 1] = [start + seconds]
        result.append(Bar(kernel, start, seconds, row))
    return result


def middle_block(anatomy: Anatomy) -> list[TracedKernel]:
    """Return the kernels of the middle decoder layer, or a layer's share of the step's where none is known."""
    kernels, layers = anatomy.trace.kernels, anatomy.cell.spec.num_hidden_layers
    block = [kernel for kernel in kernels if kernel.layer == layers // 2]
    if block:
        return block
    first = len(kernels) * (layers // 2) // layers
    return list(kernels[first : first + max(1, len(kernels) // layers)])


def knows_layers(anatomy: Anatomy) -> bool:
    """Tell whether the trace says which layer its kernels belong to."""
    return any(kernel.layer is not None for kernel in anatomy.trace.kernels)
