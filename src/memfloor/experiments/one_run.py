"""One run of one cell: a fresh process is asked for it, and whatever becomes of that process is a record."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from memfloor.experiments.ask import ask
from memfloor.experiments.job import Job, Measured
from memfloor.record import Cell, Failure, Protocol, Run, Skip

# What a child sends that is no result.
PROGRESS = ("phase", "steps")
# Called with each of these.
OnEvent = Callable[[Mapping[str, Any]], None]


class RunOrder(BaseModel):
    """Ask for one run, and say what its record is called.

    Attributes:
        record_id: Of the record, whatever its kind.
        session_id: Of the session that it belongs to.
        block: Its block.
        seed: Of weights and cache.
        cell: What is decoded and how.
        protocol: How the run is taken.
        time_limit_seconds: Time after which it is ended and recorded as a failure.
        child_module: What the fresh process runs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    record_id: str
    session_id: str
    block: int
    seed: int
    cell: Cell
    protocol: Protocol
    time_limit_seconds: float
    child_module: str


def take_one(order: RunOrder, on_event: OnEvent) -> Run | Failure | Skip:
    """Take one run in a fresh child process and return its record, which nobody has written yet."""
    job = Job(cell=order.cell, protocol=order.protocol, seed=order.seed)
    identity: dict[str, Any] = {
        "record_id": order.record_id,
        "session_id": order.session_id,
        "taken_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "block": order.block,
        "seed": order.seed,
        "cell": order.cell,
    }

    def hear(event: Mapping[str, Any]) -> None:
        if event["event"] in PROGRESS:
            on_event(event)

    answer = ask(order.child_module, job, order.time_limit_seconds, hear)
    if "measured" in answer.events:
        measured = Measured.model_validate(answer.need("measured"))
        return Run(
            **identity,
            protocol=order.protocol,
            steps=measured.timings.steps,
            ceilings=measured.timings.ceilings,
            environment=measured.environment,
            path=measured.path,
            steps_per_call=measured.steps_per_call,
        )
    if answer.cause is None:
        return Skip(**identity, reason=answer.problem, device=answer.device)
    return Failure(**identity, cause=answer.cause, last_words=answer.last_words, device=answer.device)
