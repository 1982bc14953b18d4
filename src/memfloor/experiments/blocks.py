"""Runs of several cells in randomised, interleaved blocks, each run a fresh process, each result kept at once."""

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from memfloor.experiments.one_run import RunOrder, take_one
from memfloor.record import Cell, Failure, Run, Skip, Store
from memfloor.record import Protocol as RunProtocol

CHILD_MODULE = "memfloor.experiments.child"
# A cell that fails this often in a row is left alone for the rest of the session.
PATIENCE = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """Say which cells to take how often.

    Attributes:
        cells: The cells, all different.
        runs: Runs of each cell.
        protocol: How one run is taken.
        time_limit_seconds: Time after which a run is ended and recorded as a failure.
        seed: Seed of the order within blocks and of the weights.
        compared: Gives cells that are compared with one another the same answer: within a block they are taken side by
            side. None compares all with all.
        partners: By cell key, the key of the cell without whose runs its own say nothing: both are given up together.
    """

    cells: Sequence[Cell]
    runs: int
    protocol: RunProtocol
    time_limit_seconds: float = 900.0
    seed: int = 0
    partners: Mapping[str, str] = field(default_factory=dict)
    compared: Callable[[Cell], Hashable] | None = None


# Asked before each run, given its cell and block: the seconds it may take, or None to leave it for another session.
Admission = Callable[[Cell, int], float | None]


class Listener(Protocol):
    """Follow a session; the parent process alone shows progress."""

    def run_started(self, cell: Cell, done: int, total: int) -> None:
        """A run starts, after `done` of `total`."""

    def run_event(self, event: Mapping[str, Any]) -> None:
        """A child reports a phase or a step."""

    def run_ended(self, record: Run | Failure | Skip, done: int, total: int, seconds_left: float) -> None:
        """A run has ended and its record is on disk."""


@dataclass
class Patience:
    """Know which cells have been given up.

    Attributes:
        partners: By cell key, the key of the cell that is given up with it.
        given_up: Keys of the cells that are left alone.
    """

    partners: Mapping[str, str] = field(default_factory=dict)
    given_up: set[str] = field(default_factory=set)
    _failures_in_a_row: Counter[str] = field(default_factory=Counter)

    def note(self, record: Run | Failure | Skip) -> None:
        """Give a cell up that cannot run here, that memory did not hold, or that failed too often in a row."""
        key = record.cell.key
        self._failures_in_a_row[key] = self._failures_in_a_row[key] + 1 if isinstance(record, Failure) else 0
        # Memory and missing libraries do not come back by asking again.
        hopeless = isinstance(record, Skip) or (isinstance(record, Failure) and record.cause == "out_of_memory")
        if hopeless or self._failures_in_a_row[key] >= PATIENCE:
            self.given_up |= {key, self.partners.get(key, key)}


@dataclass
class _Progress:
    """How many runs are done, and how long they take."""

    total: int
    done: int = 0
    seconds: list[float] = field(default_factory=list)

    def note(self, seconds: float) -> None:
        self.done += 1
        self.seconds.append(seconds)

    @property
    def seconds_left(self) -> float:
        return (self.total - self.done) * sum(self.seconds) / max(1, len(self.seconds))


def blocks(plan: Plan, done: Mapping[str, set[int]]) -> list[tuple[int, Cell]]:
    """Return the (block, cell) pairs that are still to be taken, block by block, shuffled within each.

    Args:
        plan: What is wanted.
        done: By cell key, the blocks that are on record.
    """
    order: list[tuple[int, Cell]] = []
    for block in range(plan.runs):
        members = list(plan.cells)
        random.Random(f"{plan.seed}/{block}").shuffle(members)
        if plan.compared is not None:
            members = _side_by_side(members, plan.compared)
        order += [(block, cell) for cell in members if block not in done.get(cell.key, set())]
    return order


def _side_by_side(cells: Sequence[Cell], compared: Callable[[Cell], Hashable]) -> list[Cell]:
    groups: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(compared(cell), []).append(cell)
    return [cell for group in groups.values() for cell in group]


def take_blocks(
    plan: Plan,
    store: Store,
    listener: Listener,
    done: Mapping[str, set[int]] | None = None,
    admit: Admission | None = None,
    session_id: str | None = None,
) -> Iterator[Run | Failure | Skip]:
    """Take every missing run of a plan, yield its record once it is on disk, and go on whatever happens to a child.

    Args:
        plan: What is wanted.
        store: Where records go; must be open for writing.
        listener: Follows along.
        done: By cell key, the blocks that are on record and not to be taken again.
        admit: Says how long each run may take; unless given, as long as the plan says.
        session_id: Of the session that the runs belong to; a new one unless given.
    """
    session_id = session_id or uuid.uuid4().hex
    missing = blocks(plan, done or {})
    progress, patience = _Progress(total=len(missing)), Patience(plan.partners)
    for block, cell in missing:
        limit_seconds = None if cell.key in patience.given_up else _limit(plan, cell, block, admit)
        if limit_seconds is None:
            progress.done += 1
            continue
        listener.run_started(cell, progress.done, progress.total)
        start = time.monotonic()
        order = RunOrder(
            record_id=uuid.uuid4().hex,
            session_id=session_id,
            block=block,
            seed=plan.seed + block,
            cell=cell,
            protocol=plan.protocol,
            time_limit_seconds=limit_seconds,
            child_module=CHILD_MODULE,
        )
        record = take_one(order, listener.run_event)
        store.add(record)
        patience.note(record)
        progress.note(time.monotonic() - start)
        listener.run_ended(record, progress.done, progress.total, progress.seconds_left)
        yield record


def _limit(plan: Plan, cell: Cell, block: int, admit: Admission | None) -> float | None:
    return plan.time_limit_seconds if admit is None else admit(cell, block)
