"""What a system under test must offer: prepare a decode, take steps, and say which path they took."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from memfloor.engine.plan import Plan
from memfloor.engine.random_tensors import random_prompt
from memfloor.record import Cell, ObservedPath, Outputs


def _silent(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """Ask a runtime for a decode.

    Attributes:
        cell: What is decoded and how.
        start_len: Tokens in the KV cache before the first step; 0, an empty cache, is for `forced_logits`.
        max_steps: Decode steps that will be taken at most; a static cache needs room for start_len + max_steps tokens.
        seed: Seed of random weights, KV contents and the first token.
        report: Told by a runtime what it is preparing.
    """

    cell: Cell
    start_len: int
    max_steps: int
    seed: int = 0
    report: Callable[[str], None] = _silent

    @property
    def first_token(self) -> int:
        """Return the token that the first step feeds to each sequence."""
        return self.seed % self.cell.spec.vocab_size

    def prompt(self) -> NDArray[np.int64]:
        """Return the prompt that a real prefill takes, [B, start_len]."""
        return random_prompt(self.cell.spec.vocab_size, self.start_len, self.seed, self.cell.workload.batch)


@dataclass(frozen=True, slots=True)
class TracedParts:
    """Offer what an anatomy can tell the kernels of a step by.

    Attributes:
        module: Model whose modules can be annotated.
        cache: KV cache of that model.
        eager_step: The step of the module, launched operator by operator.
        plan: The plan that a step issues or replays, a kernel per call.
        timed_step: Takes one step and returns the seconds of each call of the plan, where no profiler sees them.
    """

    module: Any = None
    cache: Any = None
    eager_step: Callable[[], None] | None = None
    plan: Plan | None = None
    timed_step: Callable[[], list[float]] | None = None


class System(Protocol):
    """Do the same work in every step, and say which path it took; know nothing of clocks.

    Its file imports its library inside its methods, so that the registry loads without it.

    Attributes:
        name: What the command line calls it.
        summary: What it is, in a line.
        options: By option, the values it takes.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    options: ClassVar[Mapping[str, tuple[str, ...]]]

    def __init__(self, request: DecodeRequest) -> None:
        """Keep the request; allocate nothing yet."""

    @classmethod
    def unavailable_reason(cls, cell: Cell | None = None) -> str | None:
        """Say why it cannot run here, or not this cell; None if it can.

        Without a cell the answer is about the machine and what is installed, and ends with the install line.
        """

    @classmethod
    def steps_per_call(cls, cell: Cell) -> int:
        """Return the decode steps that one call of `step` takes for this cell: 1, unless its options say otherwise."""

    def prepare(self) -> None:
        """Allocate and fill everything that steps read, such as weights and the KV cache up to `start_len` tokens."""

    def step(self) -> None:
        """Take the steps of one call; on a GPU this may return before the device has finished."""

    def observed_path(self) -> ObservedPath:
        """Take one more step and report what it really ran; called after the last timed step."""


class Runtime(System, Protocol):
    """Decode one token per step."""

    @classmethod
    def launches_one_by_one(cls, cell: Cell) -> bool:
        """Tell whether each kernel of a step of this cell is launched on its own."""

    def rewind(self) -> None:
        """Go back to where `prepare` left the decode: the next step finds `start_len` tokens and feeds the first token.

        On a GPU this may return before the device has done it. What steps have written beyond `start_len` is written
        again before it is read.
        """

    def outputs(self, steps: int) -> Outputs:
        """Take the next steps and return what they gave; waits for the device."""

    def forced_logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Decode given tokens one a step from where the prepared cache ends, and return the logits that follow each.

        They go through the same decode path as `step`, which is called neither before nor after. A runtime whose steps
        keep no logits says what it takes instead.

        Args:
            tokens: What is fed, T of them and no more than `max_steps`; to each sequence of a batch.

        Returns:
            Logits [T, V], of the first sequence.
        """

    def traced_parts(self) -> TracedParts | None:
        """Return what an anatomy can tell the kernels of a prepared step by; None if no trace can see them."""


@runtime_checkable
class Prefilling(Protocol):
    """Take a prompt again and again, as a control loop does whose prompts are images."""

    @classmethod
    def passes_over_prompts(cls, cell: Cell) -> bool:
        """Tell whether a prompt of this cell goes through in passes over many of its tokens, not token by token."""

    def prefill(self) -> None:
        """Forget the cache, fill it with the prompt's `start_len` tokens, and stand where `prepare` left the decode.

        On a GPU this may return before the device has finished.
        """
