"""What a system under test must offer: prepare a decode, take steps, and say which path they took."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from memfloor.record import Cell, ObservedPath


def _silent(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """Ask a runtime for a decode.

    Attributes:
        cell: What is decoded and how.
        start_len: Tokens in the KV cache before the first step.
        max_steps: Steps that will be taken at most; a static cache needs room for start_len + max_steps tokens.
        seed: Seed of random weights, KV contents and the first token.
        report: Told by a runtime what it is preparing.
    """

    cell: Cell
    start_len: int
    max_steps: int
    seed: int = 0
    report: Callable[[str], None] = _silent


class Runtime(Protocol):
    """Decode one token per step; know nothing of clocks.

    A runtime's file imports its library inside its methods, so that the registry loads without it.

    Attributes:
        name: What `--runtime` calls it.
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
        """Say why this runtime cannot run here, or this cell; None if it can.

        Without a cell the answer is about the machine and what is installed, and ends with the install line.
        """

    def prepare(self) -> None:
        """Load weights and fill the KV cache up to `start_len` tokens."""

    def step(self) -> None:
        """Decode one token and append it; on a GPU this may return before the device has finished."""

    def observed_path(self) -> ObservedPath:
        """Take one more step and report what it really ran; called after the last timed step."""
