"""Take decode steps with a model, eagerly or by replaying a captured graph."""

import torch

from memfloor.engine.model import RING_LEN, DecodeModel
from memfloor.engine.plan import LAUNCHES, CapturedPlan
from memfloor.errors import UsageError


class Decoder:
    """Decode greedily from a position on, refusing to run past the cache."""

    def __init__(self, model: DecodeModel, launch: str, steps_per_issue: int = 1) -> None:
        """Prepare a launch mode.

        Args:
            model: What to decode with.
            launch: `eager` issues every kernel from Python; `graph` replays them captured.
            steps_per_issue: Steps one call of `step` takes.

        Raises:
            UsageError: The launch mode is unknown.
        """
        if launch not in LAUNCHES:
            raise UsageError.unknown("launch mode", launch, LAUNCHES)
        self.model, self.steps_per_issue = model, steps_per_issue
        self._position: int | None = None
        self._captured = self._capture() if launch == "graph" else None

    def start(self, token: int, position: int) -> None:
        """Make `token`, at slot `position`, the input of the next step.

        Raises:
            UsageError: The token is outside the vocabulary or the position outside the cache.
        """
        if not 0 <= token < self.model.spec.vocab_size:
            raise UsageError(f"token must be 0 to {self.model.spec.vocab_size - 1}, not {token}")
        if not 0 <= position < self.model.max_len:
            raise UsageError(f"position must be 0 to {self.model.max_len - 1}, not {position}")
        self.model.start(token, position)
        self._position = position

    def step(self) -> None:
        """Take the next steps; on a GPU this returns before they have ended.

        Raises:
            UsageError: The decode was not started, or the cache has no slot left.
        """
        if self._position is None:
            raise UsageError("start the decode before its first step")
        if self._position + self.steps_per_issue > self.model.max_len:
            raise UsageError(f"the cache holds {self.model.max_len} tokens; step {self._position + 1} has no slot left")
        self._issue()
        self._position += self.steps_per_issue

    def tokens(self, first: int, count: int) -> list[int]:
        """Return the tokens that the steps at slots [first, first + count) produced; waits for the device."""
        if count > RING_LEN:
            raise UsageError(f"the device keeps {RING_LEN} tokens, not {count}")
        ring = self.model.ring.tolist()
        return [ring[slot % RING_LEN] for slot in range(first, first + count)]

    def _issue(self) -> None:
        if self._captured is not None:
            self._captured.issue()
            return
        for _ in range(self.steps_per_issue):
            self.model.plan.issue()

    def _capture(self) -> CapturedPlan:
        # One step compiles every kernel; it writes slot 0, so the caller's cache is put back.
        slot = self.model.cache[:, :, :, 0].clone()
        self.model.start(0, 0)
        self.model.plan.issue()
        torch.cuda.synchronize(self.model.device)
        self.model.cache[:, :, :, 0].copy_(slot)
        return CapturedPlan(self.model.plan, self.steps_per_issue)
