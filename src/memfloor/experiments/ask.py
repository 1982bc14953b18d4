"""Ask a child process for one thing and keep what it answers, or why it could not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from memfloor.errors import UsageError
from memfloor.experiments.control_job import ControlJob
from memfloor.experiments.energy_job import EnergyJob
from memfloor.experiments.job import Job
from memfloor.experiments.quality_job import QualityJob
from memfloor.experiments.tracing import TraceJob
from memfloor.measure.process import ChildOutcome, run_child
from memfloor.record import DeviceInfo

TIMED_CHILD = "memfloor.experiments.child"
TRACED_CHILD = "memfloor.experiments.traced_child"
QUALITY_CHILD = "memfloor.experiments.quality_child"
CONTROL_CHILD = "memfloor.experiments.control_child"
ENERGY_CHILD = "memfloor.experiments.energy_child"

# What a child can be asked.
ChildJob = Job | TraceJob | QualityJob | EnergyJob | ControlJob
Cause = Literal["out_of_memory", "died", "timed_out", "error"]


class LostChildError(UsageError):
    """Say how a child was lost that could have answered.

    Attributes:
        cause: As a `Failure` has it.
        device: The device as the child described it; None if it did not come to that.
    """

    def __init__(self, words: str, cause: Cause, device: DeviceInfo | None) -> None:
        super().__init__(words)
        self.cause, self.device = cause, device


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold what a child sent before it ended.

    Attributes:
        events: Its last event of each name.
        problem: Why an event that is missing did not come.
        cause: How the child was lost; None where it said itself that it cannot answer.
    """

    events: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    problem: str = ""
    cause: Cause | None = None

    def need(self, event: str) -> Any:
        """Return the result that an event of this name carries.

        Raises:
            LostChildError: The child did not send it, and another one may.
            UsageError: The child said why it cannot.
        """
        if event in self.events:
            return self.events[event][event]
        if self.cause is None:
            raise UsageError(self.problem)
        device = self.events["device"]["device"] if "device" in self.events else None
        raise LostChildError(self.problem, self.cause, device and DeviceInfo.model_validate(device))


def ask(
    module: str,
    job: ChildJob,
    time_limit_seconds: float,
    on_phase: Callable[[str], None] = lambda phase: None,
) -> Answer:
    """Run a child with a job to its end and return what it sent.

    Args:
        module: The child's module.
        job: What it is asked.
        time_limit_seconds: Time after which it is ended.
        on_phase: Told what it does.
    """
    heard: dict[str, Mapping[str, Any]] = {}

    def hear(event: Mapping[str, Any]) -> None:
        heard[event["event"]] = event
        if event["event"] == "phase":
            on_phase(event["phase"])

    outcome = run_child(module, job.model_dump_json(), time_limit_seconds, hear)
    return Answer(heard, _problem(job, heard, outcome, time_limit_seconds), _cause(heard, outcome))


def _problem(job: ChildJob, heard: Mapping[str, Any], outcome: ChildOutcome, time_limit_seconds: float) -> str:
    if "unavailable" in heard:
        return str(heard["unavailable"]["reason"])
    if "out_of_memory" in heard:
        return f"out of memory: {heard['out_of_memory']['message']}"
    if outcome.timed_out:
        return f"no end after {time_limit_seconds:g} s"
    return f"{job.cell.runtime_text}: {outcome.describe()}; {outcome.last_line}"


def _cause(heard: Mapping[str, Any], outcome: ChildOutcome) -> Cause | None:
    if "unavailable" in heard:
        return None
    return "out_of_memory" if "out_of_memory" in heard else outcome.cause
