"""The time of gpu_study.py: how long work of each kind takes, and whether another run still fits."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from memfloor.record import Cell

# Seconds of a run of a 7B model before one was taken; on an H200 they took 5 to 15, 12 to 27 twice, and 33 to 72.
FIRST_GUESS = {"engine": 12.0, "hf-eager": 27.0, "hf-static": 27.0, "hf-compile": 65.0}
# An anatomy runs and traces, in processes of their own.
RUNS_PER_ANATOMY = 2.5
# What is expected is exceeded by so much now and then.
MARGIN = 1.2
# No run, however the study goes, is waited for longer.
LONGEST_RUN_SECONDS = 240.0


class History:
    """Remember in a file beside the records how long runs and anatomies took, for this session and the next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken: list[dict] = []
        if path.is_file():
            # A session that was killed leaves half a line.
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            self._taken = [json.loads(line) for line in lines]

    def note(self, kind: str, cell: Cell, seconds: float) -> None:
        """Keep how long one piece of work took; kind is `run` or `anatomy`."""
        entry = {"kind": kind, "key": cell.key, "runtime": cell.runtime, "model": cell.spec.name, "seconds": seconds}
        self._taken.append(entry)
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def expect(self, kind: str, cell: Cell) -> float:
        """Return the seconds to expect: what the same work took lately, or the like of it, or a first guess."""
        like = {"key": cell.key, "runtime": cell.runtime, "model": cell.spec.name}
        for wanted in (("key",), ("runtime", "model"), ("runtime",)):
            same = [
                taken["seconds"]
                for taken in self._taken
                if taken["kind"] == kind and all(taken[name] == like[name] for name in wanted)
            ]
            if same:
                return max(same[-3:])
        if kind == "anatomy":
            return RUNS_PER_ANATOMY * self.expect("run", cell)
        return FIRST_GUESS.get(cell.runtime, max(FIRST_GUESS.values()))


class Budget:
    """Share out a time limit: start nothing that is not expected to end within the limit and the stage's share."""

    def __init__(self, limit_seconds: float, history: History, clock: Callable[[], float] = time.monotonic) -> None:
        self.history, self._clock = history, clock
        self._begun = clock()
        self._end = self._stage_end = self._begun + limit_seconds
        self._full_block: int | None = None

    @property
    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return self._clock() - self._begun

    @property
    def remaining(self) -> float:
        """Return the seconds left of the limit."""
        return self._end - self._clock()

    @contextmanager
    def stage(self, share: float) -> Iterator[None]:
        """Give the work inside a share, 0 to 1, of the time that is left."""
        self._stage_end = self._clock() + share * max(0.0, self.remaining)
        self._full_block = None
        try:
            yield
        finally:
            self._stage_end = self._end

    def admit(self, cell: Cell, block: int, kind: str = "run") -> float | None:
        """Return the seconds that each process of a run or an anatomy may take, or None where it would not fit.

        Once something of a block did not fit, nothing of a later block is started: arms stay of about equal count.
        """
        if self._full_block is not None and block > self._full_block:
            return None
        if MARGIN * self.history.expect(kind, cell) > self._stage_end - self._clock():
            self._full_block = block if self._full_block is None else self._full_block
            return None
        return min(LONGEST_RUN_SECONDS, self.remaining)
