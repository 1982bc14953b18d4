"""A step as a list of kernel calls over fixed buffers, issued one by one or captured once and replayed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from memfloor.engine.calls import KernelCall
from memfloor.errors import UsageError

LAUNCHES = ("eager", "graph")


@dataclass(frozen=True, slots=True)
class Plan:
    """Hold the kernel calls of one decode step, in order."""

    calls: Sequence[KernelCall]

    def issue(self) -> None:
        """Launch every kernel from Python, one after another, on the current stream."""
        for call in self.calls:
            call.issue()

    def counts(self) -> dict[str, int]:
        """Return the launches per step of each operation."""
        counts: dict[str, int] = {}
        for call in self.calls:
            counts[call.op] = counts.get(call.op, 0) + 1
        return counts


class CapturedPlan:
    """A plan captured in a CUDA Graph: the same kernels, buffers and bytes, launched by the device's driver.

    Every kernel of the plan must have been launched once before, so that none is compiled while capturing.
    """

    def __init__(self, plan: Plan, steps: int = 1) -> None:
        """Capture a plan.

        Args:
            plan: What to capture.
            steps: Steps one replay takes, 1 or more.

        Raises:
            UsageError: Fewer than one step is asked for.
        """
        if steps < 1:
            raise UsageError(f"steps per replay must be 1 or more, not {steps}")
        self.steps = steps
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for _ in range(steps):
                plan.issue()

    def issue(self) -> None:
        """Replay all captured steps on the current stream."""
        self._graph.replay()
