"""Take decode steps with a model, eagerly or by replaying a captured plan."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memfloor.engine.plan import LAUNCHES, RING_LEN, StepModel
from memfloor.errors import UsageError


class Decoder:
    """Decode from a position on, refusing to run past the cache."""

    def __init__(self, model: StepModel, launch: str, steps_per_issue: int = 1) -> None:
        """Prepare a launch mode.

        Args:
            model: What to decode with.
            launch: `eager` issues every kernel from Python; `graph` replays them captured.
            steps_per_issue: Steps one call of `step` takes, 1 or more.

        Raises:
            UsageError: The launch mode is unknown, or fewer than one step is asked for.
        """
        if launch not in LAUNCHES:
            raise UsageError.unknown("launch mode", launch, LAUNCHES)
        if steps_per_issue < 1:
            raise UsageError(f"steps per issue must be 1 or more, not {steps_per_issue}")
        self.model, self.steps_per_issue = model, steps_per_issue
        self._position: int | None = None
        self._captured = model.capture(steps_per_issue) if launch == "graph" else None

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

    def prefill(self, tokens: Sequence[int]) -> None:
        """Fill the first slots with a prompt, launched as steps are; on a GPU this returns before it is done.

        Raises:
            UsageError: The cache has no slot for a token behind the prompt.
        """
        if len(tokens) >= self.model.max_len:
            raise UsageError(f"the cache holds {self.model.max_len} tokens; no slot is left behind {len(tokens)}")
        self.model.prefill(tokens, self._captured is not None)

    def step(self) -> None:
        """Take the next steps; on a GPU this returns before they have ended.

        Raises:
            UsageError: The decode was not started, or the cache has no slot left.
        """
        position = self._started()
        if position + self.steps_per_issue > self.model.max_len:
            raise UsageError(f"the cache holds {self.model.max_len} tokens; step {position + 1} has no slot left")
        self._issue()
        self._position = position + self.steps_per_issue

    def decode(self, steps: int) -> list[int]:
        """Take the next steps and return the tokens that they produced; waits for the device.

        Raises:
            UsageError: Not started, no slot is left in the cache, the model does not keep so many tokens, or the steps
                are not a whole number of issues.
        """
        if steps % self.steps_per_issue:
            raise UsageError(f"steps must be a multiple of {self.steps_per_issue}, not {steps}")
        first = self._position
        for _ in range(steps // self.steps_per_issue):
            self.step()
        assert first is not None
        return self.tokens(first, steps)

    def forced_logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Take a step with each given token and return the logits that follow each, [T, V]; waits for the device.

        Raises:
            UsageError: Not started, no slot is left in the cache, or an issue takes several steps.
        """
        if self.steps_per_issue > 1:
            raise UsageError(f"tokens can be given to one step per issue, not to {self.steps_per_issue}")
        rows = []
        for token in tokens:
            self.start(token, self._started())
            self.step()
            rows.append(np.frombuffer(self.model.logits_bytes(), np.float32))
        return np.stack(rows)

    def tokens(self, first: int, count: int) -> list[int]:
        """Return the tokens that the steps at slots [first, first + count) produced; waits for the device.

        Raises:
            UsageError: More tokens are asked for than the model keeps.
        """
        if count > RING_LEN:
            raise UsageError(f"the device keeps {RING_LEN} tokens, not {count}")
        ring = self.model.ring()
        return [ring[slot % RING_LEN] for slot in range(first, first + count)]

    def _started(self) -> int:
        if self._position is None:
            raise UsageError("start the decode before its first step")
        return self._position

    def _issue(self) -> None:
        if self._captured is not None:
            self._captured.issue()
            return
        for _ in range(self.steps_per_issue):
            self.model.plan.issue()
