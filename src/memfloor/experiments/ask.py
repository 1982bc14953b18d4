"""Ask a child process for one thing and keep what it answers, or why it could not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from memfloor.errors import UsageError
from memfloor.experiments.job import Job
from memfloor.experiments.tracing import TraceJob
from memfloor.measure.process import ChildOutcome, run_child

TIMED_CHILD = "memfloor.experiments.child"
TRACED_CHILD = "memfloor.experiments.traced_child"


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold what a child sent before it ended.

    Attributes:
        events: Its last event of each name.
        problem: Why an event that is missing did not come.
    """

    events: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    problem: str = ""

    def need(self, event: str) -> Any:
        """Return the result that an event of this name carries.

        Raises:
            UsageError: The child did not send it.
        """
        if event not in self.events:
            raise UsageError(self.problem)
        return self.events[event][event]


def ask(
    module: str,
    job: Job | TraceJob,
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
    return Answer(heard, _problem(job, heard, outcome, time_limit_seconds))


def _problem(job: Job | TraceJob, heard: Mapping[str, Any], outcome: ChildOutcome, time_limit_seconds: float) -> str:
    if "unavailable" in heard:
        return str(heard["unavailable"]["reason"])
    if "out_of_memory" in heard:
        return f"out of memory: {heard['out_of_memory']['message']}"
    if outcome.timed_out:
        return f"no end after {time_limit_seconds:g} s"
    last = outcome.last_words.splitlines()[-1] if outcome.last_words else "no last words"
    return f"{job.cell.runtime_text}: {outcome.describe()}; {last}"
