"""Which worker takes what: cells that are compared with one another stay together, on one machine."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from threading import Condition

from memfloor.experiments.blocks import Plan, blocks
from memfloor.record import Cell
from memfloor.sweep.machines import Machine
from memfloor.sweep.plan import SweepPlan


@dataclass(eq=False)
class Unit:
    """Hold the cells of one block that are compared with one another: one worker takes them, one after another.

    Attributes:
        block: Their block.
        cells: Those that are not on record yet, in their order.
        home: Session of the first ones on record, which no other machine belongs to; None if there are none.
    """

    block: int
    cells: list[Cell]
    home: str | None = None


def together(cell: Cell) -> Hashable:
    """Return what cells share that are compared with one another: all runtimes and formats of one workload."""
    return cell.spec.name, cell.spec.fingerprint, cell.workload.context_len, cell.workload.batch, cell.prefill


def units_of(plan: SweepPlan, machine: Machine, sessions: Mapping[str, str]) -> list[Unit]:
    """Return what a machine still has to take, in order.

    Args:
        plan: The plan.
        machine: One of its machines.
        sessions: By the identity of each run on record, its session.
    """
    wanted = Plan(plan.cells(machine), plan.runs, plan.protocol(machine), seed=plan.seed, compared=together)
    found: dict[Hashable, Unit] = {}
    for block, cell in blocks(wanted, {}):
        unit = found.setdefault((block, together(cell)), Unit(block, []))
        session = sessions.get(plan.run_id(machine, cell, block))
        if session is None:
            unit.cells.append(cell)
        else:
            unit.home = session
    return [unit for unit in found.values() if unit.cells]


@dataclass
class Board:
    """Hand out units to the workers of machines of one name; many threads use it at once.

    Attributes:
        waiting: Units that nobody is taking, in order.
    """

    waiting: list[Unit]
    _taken: int = 0
    _stopped: bool = False
    _present: dict[str, str] = field(default_factory=dict)
    _changed: Condition = field(default_factory=Condition)

    def join(self, worker: str, session: str) -> None:
        """Note that a worker of this session is there; all that are there at the start join before any is served."""
        with self._changed:
            self._present[worker] = session
            self._changed.notify_all()

    def leave(self, worker: str) -> None:
        """Note that it has gone, so that others take what it had begun."""
        with self._changed:
            del self._present[worker]
            self._changed.notify_all()

    def next(self, session: str) -> Unit | None:
        """Return the next unit for a worker, waiting for those that others may give back; None when nothing is left.

        What was begun on a machine goes on there as long as one of its workers is present, and elsewhere at the end.
        """
        with self._changed:
            while not self._stopped:
                unit = self._choose(session)
                if unit is not None:
                    self.waiting.remove(unit)
                    self._taken += 1
                    return unit
                if not self.waiting and not self._taken:
                    return None
                self._changed.wait()
            return None

    def has_work(self) -> bool:
        """Tell whether anything is waiting, or may come back from the workers that have it."""
        with self._changed:
            return not self._stopped and bool(self.waiting or self._taken)

    def put_back(self, unit: Unit) -> None:
        """Take a unit back from its worker; what has no cells left is done."""
        with self._changed:
            self._taken -= 1
            if unit.cells:
                self.waiting.insert(0, unit)
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _choose(self, session: str) -> Unit | None:
        begun_here = [unit for unit in self.waiting if unit.home == session]
        fresh = [unit for unit in self.waiting if unit.home is None]
        # Last, for a worker that was lost may be back by then.
        orphaned = [unit for unit in self.waiting if unit.home not in (None, *self._present.values())]
        return next(iter(begun_here + fresh + orphaned), None)
