"""Search for launch shapes that are faster than the default by more than repeated readings differ."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from memfloor.engine.cuda.launch_shapes import LaunchShapes
from memfloor.engine.cuda.neighbours import OPS
from memfloor.errors import UsageError

# Readings of each shape that is compared; one of each in turn, in an order of its own.
ROUNDS = 9
# What its first reading shows to be so much slower is not read again.
HOPELESS = 1.02


class Bench(Protocol):
    """Check and time launch shapes."""

    def problem(self, shapes: LaunchShapes) -> str | None:
        """Say why shapes are not to be timed: they do not compile, or give wrong numbers; None if they may be."""

    def reader(self, shapes: LaunchShapes) -> Callable[[], float]:
        """Return what takes one reading of a step, in seconds."""


@dataclass(frozen=True, slots=True)
class Found:
    """Hold what a search came to.

    Attributes:
        shapes: The winner, or the default where nothing beat it.
        default_seconds: Median step of the default, in the last readings.
        step_seconds: Median step of the winner, beside it.
        tried: Shapes that were timed.
        refused: Why others were not, one line each.
        finished: Whether nothing was left to try when the time was up.
    """

    shapes: LaunchShapes
    default_seconds: float
    step_seconds: float
    tried: int
    refused: tuple[str, ...]
    finished: bool


class Search:
    """Go from the default to better neighbours, operation by operation, until none is better or the time is up."""

    def __init__(
        self,
        bench: Bench,
        near: Callable[[LaunchShapes, str], Sequence[LaunchShapes]],
        limit_seconds: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep what the search needs.

        Args:
            bench: Checks and times.
            near: Returns the shapes to be tried beside some, which differ from them in one operation.
            limit_seconds: No shape is tried after this time.
            say: Told every step of the search.
            clock: Seconds from some moment.
        """
        self._bench, self._near, self._say = bench, near, say
        self._clock, self._until = clock, clock() + limit_seconds
        self._random = random.Random(0)
        self._seen: set[tuple[str, object]] = set()
        self._tried, self._refused, self._finished = 0, list[str](), True

    def run(self, default: LaunchShapes) -> Found:
        """Return the best shapes found.

        Raises:
            UsageError: The default itself is not to be timed, with the reason.
        """
        problem = self._bench.problem(default)
        if problem is not None:
            raise UsageError(f"the default launch shapes do not run on this device: {problem}")
        best, before = default, None
        self._seen = {(op, getattr(default, op)) for op in OPS}
        while best != before:
            before = best
            for op in OPS:
                best = self._climb(best, op)
        # What won step by step must win once more, beside the default.
        readings = self._read([self._bench.reader(shapes) for shapes in (default, best)])
        if winner(readings) == 0:
            best, readings = default, [readings[0]] * 2
        first, last = (median(column) for column in readings)
        return Found(best, first, last, self._tried, tuple(self._refused), self._finished)

    def _climb(self, best: LaunchShapes, op: str) -> LaunchShapes:
        """Return the best neighbour by one operation, or that one's best, and so on."""
        while True:
            reader = self._bench.reader(best)
            fit = self._promising(best, op, reader)
            readings = self._read([reader, *(each for _, each in fit)])
            place = winner(readings)
            if place == 0:
                return best
            best = fit[place - 1][0]
            gain = 1 - median(readings[place]) / median(readings[0])
            self._say(f"{op}: {100 * gain:.2f} % faster with {getattr(best, op)}")

    def _promising(
        self, best: LaunchShapes, op: str, reader: Callable[[], float]
    ) -> list[tuple[LaunchShapes, Callable[[], float]]]:
        """Return the neighbours that are right and not slower at once, each with what takes its readings."""
        found = []
        for other in self._near(best, op):
            key = op, getattr(other, op)
            if key in self._seen:
                continue
            if self._clock() >= self._until:
                self._finished = False
                break
            self._seen.add(key)
            problem = self._bench.problem(other)
            if problem is not None:
                self._refused.append(f"{op} {key[1]}: {problem}")
                self._say(self._refused[-1])
                continue
            self._tried += 1
            read = self._bench.reader(other)
            if read() < HOPELESS * reader():
                found.append((other, read))
        return found

    def _read(self, readers: Sequence[Callable[[], float]]) -> list[list[float]]:
        readings: list[list[float]] = [[] for _ in readers]
        places = list(range(len(readers)))
        for _ in range(ROUNDS):
            self._random.shuffle(places)
            for place in places:
                readings[place].append(readers[place]())
        return readings


def winner(readings: Sequence[Sequence[float]]) -> int:
    """Return the place of the fastest arm that beats the first by more than repeated readings differ; 0 if none does.

    Readings are compared round by round, so that a drift of the device counts for nothing: an arm wins whose median
    gain over the first, as a share, is greater than the range of its gains.

    Args:
        readings: Of each arm, one for each round.
    """
    best, least = 0, 1.0
    for place, column in enumerate(readings[1:], 1):
        ratios = [mine / first for mine, first in zip(column, readings[0], strict=True)]
        ratio = median(ratios)
        if 1 - ratio > max(ratios) - min(ratios) and ratio < least:
            best, least = place, ratio
    return best
