"""The driver of a sweep: a thread for each worker, retries of lost ones, and each run on record at most once."""

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

from memfloor.errors import UsageError
from memfloor.record import Cell, Failure, Run, Skip
from memfloor.sweep.ledger import Ledger
from memfloor.sweep.machines import Machine
from memfloor.sweep.pipe import Worker, WorkerLost
from memfloor.sweep.place import Hello
from memfloor.sweep.plan import SweepPlan
from memfloor.sweep.pool import Pool
from memfloor.sweep.spread import Unit

# Before a lost worker is called again; doubled each time that it does not come back.
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Slot:
    """Name a worker, and say how it is started.

    Attributes:
        machine: Whose cells it takes.
        name: What progress and errors call it.
        open: Starts it and waits until it has said what it is, as long as what it is given says that it is wanted;
            raises UsageError or WorkerLost.
    """

    machine: Machine
    name: str
    open: Callable[[Callable[[], bool]], Worker]


class FleetListener(Protocol):
    """Follow all workers of a sweep; called by one thread at a time."""

    def worker_ready(self, worker: str, hello: Hello) -> None:
        """A worker has said what it is."""

    def run_started(self, worker: str, cell: Cell, block: int) -> None:
        """A worker starts a run."""

    def run_event(self, worker: str, event: Mapping[str, Any]) -> None:
        """A run reports a phase or a step."""

    def run_ended(self, worker: str, record: Run | Failure | Skip, done: int, total: int) -> None:
        """A run has ended and its record is kept."""

    def worker_lost(self, worker: str, reason: str) -> None:
        """A worker does not answer any more."""

    def worker_ended(self, worker: str) -> None:
        """A worker has nothing more to take, or could not be had back."""


@dataclass
class Outcome:
    """Count what became of a sweep.

    Attributes:
        before: Runs that were on record.
        taken: Runs taken now.
        failed: Failures recorded now.
        skipped: Skips recorded now.
        lost: How often a worker was lost.
        untaken: Runs that were left for want of a worker.
    """

    before: int = 0
    taken: int = 0
    failed: int = 0
    skipped: int = 0
    lost: int = 0
    untaken: int = 0

    def note(self, record: Run | Failure | Skip) -> None:
        """Count a record."""
        self.taken += isinstance(record, Run)
        self.failed += isinstance(record, Failure)
        self.skipped += isinstance(record, Skip)


class Sweep:
    """Take what a ledger lacks of a plan."""

    def __init__(self, plan: SweepPlan, ledger: Ledger, listener: FleetListener) -> None:
        self._plan, self._ledger, self._listener = plan, ledger, listener
        records, start = ledger.records(), uuid.uuid4().hex
        self._pools = {machine.name: Pool(plan, machine, records, start) for machine in plan.machine}
        self._total = sum(pool.missing for pool in self._pools.values())
        self._outcome = Outcome(before=sum(pool.before for pool in self._pools.values()))
        self._done = 0
        # By worker, the records that it has given.
        self._given: Counter[str] = Counter()
        self._workers: dict[str, Worker] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def is_missing(self, machine: Machine) -> bool:
        """Tell whether a machine has anything to take."""
        return bool(self._pools[machine.name].board.waiting)

    def take(self, slots: Sequence[Slot]) -> Outcome:
        """Start every worker, then take what is missing, whatever becomes of single workers.

        Raises:
            UsageError: A worker cannot be had at the start or is not what the plan says, or a record cannot be kept.
        """
        try:
            with ThreadPoolExecutor(max(1, len(slots)), thread_name_prefix="sweep") as threads:
                try:
                    self._in_step(threads, slots)
                finally:
                    # Ends what the threads wait for.
                    self._stop()
        finally:
            for slot in slots:
                self._close(slot)
        boards = [pool.board for pool in self._pools.values()]
        self._outcome.untaken = sum(len(unit.cells) for board in boards for unit in board.waiting)
        return self._outcome

    def _in_step(self, threads: ThreadPoolExecutor, slots: Sequence[Slot]) -> None:
        for work in (self._open_first, self._serve):
            ended, _ = wait([threads.submit(work, slot) for slot in slots], return_when=FIRST_EXCEPTION)
            for future in ended:
                future.result()

    def _open_first(self, slot: Slot) -> None:
        try:
            self._open(slot)
        except WorkerLost as lost:
            raise UsageError(f"{slot.name}: {lost}") from lost

    def _open(self, slot: Slot) -> None:
        pool = self._pools[slot.machine.name]
        try:
            worker = slot.open(pool.board.has_work)
        except UsageError as refusal:
            raise UsageError(f"{slot.name}: {refusal}") from refusal
        with self._lock:
            self._workers[slot.name] = worker
            pool.board.join(slot.name, self._session(slot, worker))
            pool.agree(slot.name, worker.hello)
            self._listener.worker_ready(slot.name, worker.hello)

    def _serve(self, slot: Slot) -> None:
        failures, has_work = 0, self._pools[slot.machine.name].board.has_work
        while failures < self._plan.attempts and has_work():
            given = self._given[slot.name]
            try:
                self._serve_once(slot)
                break
            except WorkerLost as lost:
                failures = 1 if self._given[slot.name] > given else failures + 1
                self._note_lost(slot, str(lost))
                self._stopped.wait(RETRY_SECONDS * 2 ** (failures - 1))
        self._close(slot)
        with self._lock:
            self._listener.worker_ended(slot.name)

    def _serve_once(self, slot: Slot) -> None:
        if slot.name not in self._workers:
            try:
                self._open(slot)
            except UsageError as refusal:
                # What was right at the start may come right again, and others go on meanwhile.
                raise WorkerLost(str(refusal)) from refusal
        worker, pool = self._workers[slot.name], self._pools[slot.machine.name]
        session = self._session(slot, worker)
        while (unit := pool.board.next(session)) is not None:
            try:
                self._take_unit(slot, worker, unit, session)
            finally:
                pool.board.put_back(unit)

    def _take_unit(self, slot: Slot, worker: Worker, unit: Unit, session: str) -> None:
        pool = self._pools[slot.machine.name]
        while unit.cells and not self._stopped.is_set():
            cell = unit.cells[0]
            if not pool.is_given_up(cell):
                self._take_run(slot, worker, unit, session)
                unit.home = session
            else:
                with self._lock:
                    self._done += 1
            unit.cells.pop(0)

    def _take_run(self, slot: Slot, worker: Worker, unit: Unit, session: str) -> None:
        pool = self._pools[slot.machine.name]
        order = pool.order(unit.cells[0], unit.block, session)
        with self._lock:
            self._listener.run_started(slot.name, order.cell, order.block)
        try:
            record = worker.take(order, lambda event: self._tell(slot, event))
        except WorkerLost as lost:
            failure = None if self._stopped.is_set() else pool.note_loss(order, str(lost))
            if failure is not None:
                self._keep(slot, failure)
                unit.cells.pop(0)
            raise
        self._keep(slot, record)

    def _keep(self, slot: Slot, record: Run | Failure | Skip) -> None:
        with self._lock:
            named = self._pools[slot.machine.name].named(record)
            self._ledger.keep(named)
            self._given[slot.name] += 1
            self._done += 1
            self._outcome.note(named)
            self._listener.run_ended(slot.name, named, self._done, self._total)

    def _tell(self, slot: Slot, event: Mapping[str, Any]) -> None:
        with self._lock:
            self._listener.run_event(slot.name, event)

    def _note_lost(self, slot: Slot, reason: str) -> None:
        self._close(slot)
        if self._pools[slot.machine.name].board.has_work():
            with self._lock:
                self._outcome.lost += 1
                self._listener.worker_lost(slot.name, reason)

    def _close(self, slot: Slot) -> None:
        worker = self._workers.pop(slot.name, None)
        if worker is not None:
            self._pools[slot.machine.name].board.leave(slot.name)
            worker.close()

    def _session(self, slot: Slot, worker: Worker) -> str:
        return self._plan.session_id(slot.machine, worker.hello.place)

    def _stop(self) -> None:
        self._stopped.set()
        for pool in self._pools.values():
            pool.board.stop()
        for worker in list(self._workers.values()):
            worker.stop()
