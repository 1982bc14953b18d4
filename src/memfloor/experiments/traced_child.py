"""The process of a trace: read a job from standard input, send events to the parent."""

import sys

from memfloor.experiments.child import EventPipe, answer, start_child
from memfloor.experiments.tracing import TraceJob, do_trace
from memfloor.measure.environment import device_info


def main() -> None:
    """Take the trace and send it, and before it the outputs that were wanted."""
    pipe = start_child()
    job = TraceJob.model_validate_json(sys.stdin.read())
    answer(pipe, lambda: _work(pipe, job))


def _work(pipe: EventPipe, job: TraceJob) -> None:
    pipe.send("device", device=device_info(job.cell.device).model_dump())
    trace = do_trace(
        job,
        on_phase=lambda phase: pipe.send("phase", phase=phase),
        on_outputs=lambda outputs: pipe.send_result("outputs", outputs),
    )
    pipe.send_result("traced", trace)


if __name__ == "__main__":
    main()
