"""A step as a list of kernel calls over fixed buffers, and what a model must offer to be decoded by such steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from memfloor.spec import ModelSpec

LAUNCHES = ("eager", "graph")
# Tokens a model keeps for the host to read late.
RING_LEN = 4096


class Issuable(Protocol):
    """Something that can be launched again and again, doing the same work over the same buffers."""

    def issue(self) -> None:
        """Launch it; on a GPU this returns before the work has ended."""


class Call(Issuable, Protocol):
    """One kernel launch with everything it needs."""

    @property
    def op(self) -> str:
        """Return the name of the operation."""

    @property
    def read_bytes(self) -> int:
        """Return the bytes it reads from memory, activations left out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Hold the kernel calls of one decode step, in order."""

    calls: Sequence[Call]

    def issue(self) -> None:
        """Launch every kernel from Python, one after another."""
        for call in self.calls:
            call.issue()

    def counts(self) -> dict[str, int]:
        """Return the launches per step of each operation."""
        counts: dict[str, int] = {}
        for call in self.calls:
            counts[call.op] = counts.get(call.op, 0) + 1
        return counts


class StepModel(Protocol):
    """Own the buffers of a batch-1 decode step and the plan over them.

    Token and position live in the device's memory, so that the plan is valid for every position of the cache.

    Attributes:
        spec: The model.
        max_len: Slots of the KV cache.
        plan: The kernel calls of one step.
    """

    spec: ModelSpec
    max_len: int
    plan: Plan

    def start(self, token: int, position: int) -> None:
        """Make `token`, at slot `position`, the input of the next step."""

    def prefill(self, tokens: Sequence[int], replayed: bool = False) -> None:
        """Fill the first slots of the cache with a prompt, replayed as one launch where the model can.

        On a GPU this returns before it is done.
        """

    def capture(self, steps: int) -> Issuable:
        """Return the same calls as one launch that takes `steps` steps."""

    def ring(self) -> list[int]:
        """Return the last `RING_LEN` tokens, each at its slot modulo `RING_LEN`; waits for the device."""

    def logits_bytes(self) -> bytes:
        """Return the last step's logits, float32 [V], as they lie in memory; waits for the device."""

    def facts(self) -> dict[str, str]:
        """Return what a record should say of the path: types of the buffers, instruction set, launch shapes."""
