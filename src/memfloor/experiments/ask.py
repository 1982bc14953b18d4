"""Ask a child process for one thing and keep what it answers, or why it could not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from memfloor.errors import UsageError
from memfloor.experiments.control_job import ControlJob
from memfloor.experiments.energy_job import EnergyJob
from memfloor.experiments.job import Job
from memfloor.experiments.quality_job import QualityJob
from memfloor.experiments.tracing import TraceJob
from memfloor.measure.process import run_child
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
        last_words: What it said then, or how it ended and the last line that it printed.
    """

    events: dict[str, Mapping[str, Any]]
    problem: str
    cause: Cause | None
    last_words: str

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
        raise LostChildError(self.problem, self.cause, self.device)

    @property
    def device(self) -> DeviceInfo | None:
        """Return the device as the child described it; None if it did not come to that."""
        return DeviceInfo.model_validate(self.events["device"]["device"]) if "device" in self.events else None


def ask(
    module: str,
    job: ChildJob,
    time_limit_seconds: float,
    on_event: Callable[[Mapping[str, Any]], None] = lambda event: None,
) -> Answer:
    """Run a child with a job to its end and return what it sent.

    Args:
        module: The child's module.
        job: What it is asked.
        time_limit_seconds: Time after which it is ended.
        on_event: Told each event as it comes.
    """
    heard: dict[str, Mapping[str, Any]] = {}

    def hear(event: Mapping[str, Any]) -> None:
        heard[event["event"]] = event
        on_event(event)

    outcome = run_child(module, job.model_dump_json(), time_limit_seconds, hear)
    if "unavailable" in heard:
        reason = heard["unavailable"]["reason"]
        return Answer(heard, reason, None, reason)
    if "out_of_memory" in heard:
        words = heard["out_of_memory"]["message"]
        return Answer(heard, f"out of memory: {words}", "out_of_memory", words)
    end = f"no end after {time_limit_seconds:g} s" if outcome.timed_out else outcome.describe()
    words = f"{end}; {outcome.last_line}"
    return Answer(heard, f"{job.cell.runtime_text}: {words}", outcome.cause, words)


def phases(on_phase: Callable[[str], None]) -> Callable[[Mapping[str, Any]], None]:
    """Return what tells a listener the phases among a child's events."""

    def hear(event: Mapping[str, Any]) -> None:
        if event["event"] == "phase":
            on_phase(event["phase"])

    return hear
