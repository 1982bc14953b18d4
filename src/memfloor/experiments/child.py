"""The fresh process of one run: `python -m memfloor.experiments.child PIPE`, with a job on standard input."""

import json
import os
import sys
import time
from collections.abc import Callable
from statistics import median

from pydantic import BaseModel

from memfloor.errors import UsageError
from memfloor.experiments.job import Job, Unavailable, do_job
from memfloor.measure.environment import device_info
from memfloor.measure.process import die_with_parent
from memfloor.record import Step
from memfloor.runtimes import system_of

REPORT_SECONDS = 1.0


class EventPipe:
    """Write JSON lines that the parent reads, apart from whatever a library prints."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, event: str, **fields: object) -> None:
        """Write one event."""
        os.write(self._descriptor, (json.dumps({"event": event, **fields}) + "\n").encode())

    def send_result(self, event: str, result: BaseModel) -> None:
        """Write the result of the work under the event's own name."""
        line = f'{{"event": "{event}", "{event}": {result.model_dump_json()}}}\n'
        data = line.encode()
        while data:
            data = data[os.write(self._descriptor, data) :]


class StepReport:
    """Tell the parent how the steps go, seldom: on two cores its waking up would show in the steps."""

    def __init__(self, pipe: EventPipe, steps_per_call: int) -> None:
        self._pipe, self._steps_per_call = pipe, steps_per_call
        self._seconds: list[float] = []
        self._next = time.monotonic() + REPORT_SECONDS

    def __call__(self, step: Step) -> None:
        """Note one step, and report all timed ones when it is time to."""
        if step.phase == "timed":
            self._seconds.append(step.seconds / self._steps_per_call)
        if self._seconds and time.monotonic() >= self._next:
            self._next = time.monotonic() + REPORT_SECONDS
            self._pipe.send("steps", count=len(self._seconds), p50_seconds=median(self._seconds))


def main() -> None:
    """Take the run and send its events; any other error ends the process with its traceback as last words."""
    pipe = start_child()
    job = Job.model_validate_json(sys.stdin.read())

    def work() -> None:
        device = device_info(job.cell.device)
        pipe.send("device", device=device.model_dump())
        report = StepReport(pipe, system_of(job.cell).steps_per_call(job.cell))
        pipe.send_result("measured", do_job(job, device, report, lambda phase: pipe.send("phase", phase=phase)))

    answer(pipe, work)


def start_child() -> EventPipe:
    """Tie this process to its parent and return the pipe its events go to."""
    die_with_parent()
    _be_first_out_of_memory()
    return EventPipe(int(sys.argv[1]))


def answer(pipe: EventPipe, work: Callable[[], None]) -> None:
    """Do the work, and send as an event what the user can mend or what memory did not hold."""
    try:
        work()
    except (Unavailable, UsageError) as reason:
        # What the user can mend does not mend itself in another run.
        pipe.send("unavailable", reason=str(reason))
    except MemoryError as error:
        pipe.send("out_of_memory", message=str(error) or "out of memory")
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        pipe.send("out_of_memory", message=str(error).splitlines()[0])


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    # torch's CPU allocator has no exception class of its own.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _be_first_out_of_memory() -> None:
    # When the kernel must end a process for memory, let it be this one and not the parent with the results.
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("1000")
    except OSError:
        return


if __name__ == "__main__":
    main()
