"""The process of a control loop: read a job from standard input, send events to the parent."""

import sys
import time

from memfloor.experiments.child import EventPipe, answer, start_child
from memfloor.experiments.control_job import ControlJob, do_control
from memfloor.measure.environment import device_info

# The parent's waking up would show in the cycles.
REPORT_SECONDS = 10.0


class CycleReport:
    """Tell the parent how the cycles go, seldom."""

    def __init__(self, pipe: EventPipe) -> None:
        self._pipe = pipe
        self._next = time.monotonic() + REPORT_SECONDS

    def __call__(self, count: int, busy_seconds: float) -> None:
        """Report when it is time to."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + REPORT_SECONDS
            self._pipe.send("phase", phase=f"{count} cycles, the last one {1e3 * busy_seconds:.4g} ms")


def main() -> None:
    """Run the loop and send its cycles."""
    pipe = start_child()
    job = ControlJob.model_validate_json(sys.stdin.read())

    def work() -> None:
        device = device_info(job.cell.device)
        pipe.send("device", device=device.model_dump())
        report = CycleReport(pipe)
        pipe.send_result("controlled", do_control(job, device, report, lambda phase: pipe.send("phase", phase=phase)))

    answer(pipe, work)


if __name__ == "__main__":
    main()
