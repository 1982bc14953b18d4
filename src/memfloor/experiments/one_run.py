"""One run of one cell: a fresh process is asked for it, and whatever becomes of that process is a record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from memfloor.experiments.job import Job, Measured
from memfloor.measure.process import ChildOutcome, run_child
from memfloor.record import Cell, DeviceInfo, Failure, Protocol, Run, Skip

# Called with each phase and report of steps that is no result.
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


@dataclass
class _Child:
    """What one child has reported so far."""

    on_event: OnEvent
    device: DeviceInfo | None = None
    measured: Measured | None = None
    unavailable: str | None = None
    out_of_memory: str | None = None

    def hear(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "device":
                self.device = DeviceInfo.model_validate(event["device"])
            case "measured":
                self.measured = Measured.model_validate(event["measured"])
            case "unavailable":
                self.unavailable = event["reason"]
            case "out_of_memory":
                self.out_of_memory = event["message"]
            case _:
                self.on_event(event)


def take_one(order: RunOrder, on_event: OnEvent) -> Run | Failure | Skip:
    """Take one run in a fresh child process and return its record, which nobody has written yet."""
    child = _Child(on_event)
    job = Job(cell=order.cell, protocol=order.protocol, seed=order.seed)
    identity: dict[str, Any] = {
        "record_id": order.record_id,
        "session_id": order.session_id,
        "taken_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "block": order.block,
        "seed": order.seed,
        "cell": order.cell,
    }
    outcome = run_child(order.child_module, job.model_dump_json(), order.time_limit_seconds, child.hear)
    if child.measured is not None:
        return Run(
            **identity,
            protocol=order.protocol,
            steps=child.measured.timings.steps,
            ceilings=child.measured.timings.ceilings,
            environment=child.measured.environment,
            path=child.measured.path,
            steps_per_call=child.measured.steps_per_call,
        )
    if child.unavailable is not None:
        return Skip(**identity, reason=child.unavailable, device=child.device)
    return _failure(identity, outcome, child, order.time_limit_seconds)


def _failure(identity: Mapping[str, Any], outcome: ChildOutcome, child: _Child, time_limit_seconds: float) -> Failure:
    if child.out_of_memory is not None:
        return Failure(**identity, cause="out_of_memory", last_words=child.out_of_memory, device=child.device)
    end = f"no end after {time_limit_seconds:g} s" if outcome.timed_out else outcome.describe()
    words = f"{end}; {outcome.last_line}"
    return Failure(**identity, cause=outcome.cause, last_words=words, device=child.device)
