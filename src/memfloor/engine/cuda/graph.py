"""A plan captured in a CUDA Graph: the same kernels, buffers and bytes, launched by the device's driver."""

import torch

from memfloor.engine.plan import Plan


class CapturedPlan:
    """Replay a plan.

    Every kernel of the plan must have been launched once before, so that none is compiled while capturing.
    """

    def __init__(self, plan: Plan, steps: int) -> None:
        """Capture a plan.

        Args:
            plan: What to capture.
            steps: Steps one replay takes, 1 or more.
        """
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for _ in range(steps):
                plan.issue()

    def issue(self) -> None:
        """Replay all captured steps on the current stream."""
        self._graph.replay()
