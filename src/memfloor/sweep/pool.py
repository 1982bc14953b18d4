"""The machines of one name: what they still have to take, and what all their workers must agree on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import memfloor
from memfloor.errors import UsageError
from memfloor.experiments import blocks
from memfloor.experiments.one_run import RunOrder
from memfloor.experiments.study import stack
from memfloor.hardware import match_driver_name
from memfloor.record import Cell, Failure, Record, Run, Skip
from memfloor.sweep.machines import Machine
from memfloor.sweep.place import Hello
from memfloor.sweep.plan import SweepPlan, digest
from memfloor.sweep.spread import Board, units_of


class Pool:
    """Hold what is known of the machines of one name.

    Attributes:
        machine: What the plan says of them.
        board: What they still have to take.
        before: Runs that were on record.
        missing: Runs that were not.
    """

    def __init__(self, plan: SweepPlan, machine: Machine, records: Sequence[Record], start: str) -> None:
        """Read off the records what is done.

        Args:
            plan: The plan.
            machine: Its machine.
            records: All that is on record.
            start: Tells the failures of this start of the driver from those of earlier ones.
        """
        self.machine, self._plan, self._start = machine, plan, start
        found = {record.record_id: record for record in records}
        ids = [plan.run_id(machine, cell, block) for cell in plan.cells(machine) for block in range(plan.runs)]
        runs = [run for run_id in ids if isinstance(run := found.get(run_id), Run)]
        self.board = Board(units_of(plan, machine, {run.record_id: run.session_id for run in runs}))
        self.before, self.missing = len(runs), len(ids) - len(runs)
        self._device = runs[0].environment.device.name if runs else None
        self._packages = stack(runs[0].environment.packages) if runs else None
        self._losses: Counter[str] = Counter()
        self._patience = blocks.Patience()
        for run_id in ids:
            failure = found.get(_out_of_memory_id(run_id))
            if isinstance(failure, Failure):
                self._patience.note(failure)

    def agree(self, worker: str, hello: Hello) -> None:
        """Note what a worker is.

        Raises:
            UsageError: Its runs could not stand beside those of the others.
        """
        if hello.memfloor != memfloor.__version__:
            raise UsageError(f"{worker} has memfloor {hello.memfloor}, the driver {memfloor.__version__}")
        known = match_driver_name(hello.device)
        if self.machine.hardware is not None and (known is None or known.name != self.machine.hardware):
            raise UsageError(
                f"{worker} is {hello.device!r}; hardware of {self.machine.name} is {self.machine.hardware!r}"
            )
        theirs = stack(hello.packages)
        self._device, self._packages = self._device or hello.device, self._packages or theirs
        if hello.device != self._device:
            raise UsageError(f"{worker} is {hello.device!r}; other runs of {self.machine.name} are of {self._device!r}")
        if theirs != self._packages:
            what = _difference(theirs, self._packages)
            raise UsageError(f"{worker} has {what} of other runs of {self.machine.name}; take them under another name")

    def is_given_up(self, cell: Cell) -> bool:
        """Tell whether a cell is left alone."""
        return cell.key in self._patience.given_up

    def order(self, cell: Cell, block: int, session: str) -> RunOrder:
        """Return the order of a run."""
        plan = self._plan
        return RunOrder(
            record_id=plan.run_id(self.machine, cell, block),
            session_id=session,
            block=block,
            seed=plan.seed + block,
            cell=cell,
            protocol=plan.protocol(self.machine),
            time_limit_seconds=plan.time_limit_seconds,
            child_module=blocks.CHILD_MODULE,
        )

    def named(self, record: Run | Failure | Skip) -> Run | Failure | Skip:
        """Return a record under the identity that it is kept by, and note it.

        A run is kept once for all, and so is that memory did not hold a cell; other failures and skips once in each
        start of the driver, for they are tried again.
        """
        self._patience.note(record)
        run_id = record.record_id
        match record:
            case Run():
                return record
            case Failure(cause="out_of_memory"):
                return record.model_copy(update={"record_id": _out_of_memory_id(run_id)})
            case _:
                return record.model_copy(update={"record_id": digest(run_id, record.kind, self._start)})

    def note_loss(self, order: RunOrder, reason: str) -> Failure | None:
        """Note that a run's worker was lost; return the failure that it is once it has been tried often enough."""
        self._losses[order.record_id] += 1
        if self._losses[order.record_id] < self._plan.attempts:
            return None
        return Failure(
            record_id=order.record_id,
            session_id=order.session_id,
            taken_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            block=order.block,
            seed=order.seed,
            cell=order.cell,
            cause="died",
            last_words=f"its worker was lost in {self._plan.attempts} attempts: {reason}",
        )


def _out_of_memory_id(run_id: str) -> str:
    return digest(run_id, "out_of_memory")


def _difference(theirs: Mapping[str, str], others: Mapping[str, str]) -> str:
    name = min(name for name in {*theirs, *others} if theirs.get(name) != others.get(name))
    return f"{name} {theirs.get(name, 'missing')}, not {others.get(name, 'missing')}"
