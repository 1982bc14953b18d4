"""What does a token cost in joules? Windows of decoding in fresh processes, each between windows of idling."""

import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from memfloor.experiments.ask import ENERGY_CHILD, Answer, ask, phases
from memfloor.experiments.blocks import PATIENCE
from memfloor.experiments.energy_job import EnergyJob
from memfloor.record import Cell, EnergyProtocol, EnergyRun, MeasuredEnergy, Store

DEFAULT_RUNS = 3
# What no other run mends: the cell was refused, or did not fit.
HOPELESS = (None, "out_of_memory")


@dataclass(frozen=True, slots=True)
class EnergyPlan:
    """Say of which cells energy is taken, and how often.

    Attributes:
        cells: The cells, all different.
        runs: Runs of each, one in each block.
        protocol: How a run is taken.
        time_limit_seconds: Time after which a run is ended.
        seed: Of the order within blocks and of the weights.
    """

    cells: Sequence[Cell]
    runs: int
    protocol: EnergyProtocol
    time_limit_seconds: float = 900.0
    seed: int = 0


def take_energy(
    plan: EnergyPlan, store: Store, on_phase: Callable[[Cell, int, str], None] = lambda cell, block, phase: None
) -> Iterator[EnergyRun]:
    """Take every run of a plan in randomised blocks, and yield each record once it is on disk.

    A cell that cannot be run or measured is left alone after the run that said so; so is one that fails some times in a
    row.

    Args:
        plan: What is wanted.
        store: Where records go; must be open for writing.
        on_phase: Told what the process of a cell and block does.
    """
    session_id = uuid.uuid4().hex
    failures: Counter[str] = Counter()
    for block in range(plan.runs):
        members = list(plan.cells)
        random.Random(f"{plan.seed}/{block}").shuffle(members)
        for cell in members:
            if failures[cell.key] >= PATIENCE:
                continue
            on_phase(cell, block, "starting")
            job = EnergyJob(cell=cell, protocol=plan.protocol, seed=plan.seed + block)
            answer = ask(ENERGY_CHILD, job, plan.time_limit_seconds, phases(partial(on_phase, cell, block)))
            record = _record(job, block, session_id, answer)
            failures[cell.key] = _failures(failures[cell.key], record, answer)
            store.add(record)
            yield record


def _failures(before: int, record: EnergyRun, answer: Answer) -> int:
    if record.measured is not None:
        return 0
    return PATIENCE if answer.cause in HOPELESS else before + 1


def _record(job: EnergyJob, block: int, session_id: str, answer: Answer) -> EnergyRun:
    found = answer.events.get("measured")
    return EnergyRun(
        record_id=uuid.uuid4().hex,
        session_id=session_id,
        taken_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        block=block,
        seed=job.seed,
        cell=job.cell,
        protocol=job.protocol,
        measured=MeasuredEnergy.model_validate(found["measured"]) if found else None,
        problem=None if found else answer.problem,
        device=answer.device,
    )
