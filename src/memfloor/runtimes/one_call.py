"""What runtimes have in common whose whole step is one call of a native library, at batch 1."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memfloor.record import Cell, Outputs


class OneCallRuntime(ABC):
    """Feed a token a step and keep the next, by one native call that no profiler of torch sees into.

    Attributes:
        token: What the next step feeds.
    """

    token: int

    @abstractmethod
    def step(self) -> None:
        """Feed the last token and choose the most likely next one."""

    @abstractmethod
    def rewind(self) -> None:
        """Go back to where `prepare` left the decode."""

    @abstractmethod
    def last_logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, [V]; the next step may overwrite them."""

    @classmethod
    def launches_one_by_one(cls, cell: Cell) -> bool:
        """Tell that one native call runs the whole step."""
        return False

    @classmethod
    def steps_per_call(cls, cell: Cell) -> int:
        """Return one: each call decodes a token."""
        return 1

    def traced_parts(self) -> None:  # noqa: B027
        """Return nothing: no profiler sees the operators of the library."""

    def outputs(self, steps: int) -> Outputs:
        """Take the next steps and return their tokens and a digest of the last logits."""
        tokens = []
        for _ in range(steps):
            self.step()
            tokens.append((self.token,))
        return Outputs(tokens=tuple(tokens), logits_sha256=hashlib.sha256(self.last_logits().tobytes()).hexdigest())

    def forced_logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Decode the given tokens one a step from where the prepared cache ends; return what follows each, [T, V]."""
        logits = []
        for token in tokens:
            self.token = token
            self.step()
            logits.append(self.last_logits().copy())
        return np.stack(logits)
