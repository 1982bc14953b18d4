"""The process of a trace: read a job from standard input, send events to the parent."""

import sys

from memfloor.experiments.child import answer, start_child
from memfloor.experiments.tracing import TraceJob, do_trace


def main() -> None:
    """Take the trace and send it."""
    pipe = start_child()
    job = TraceJob.model_validate_json(sys.stdin.read())
    answer(pipe, lambda: pipe.send_result("traced", do_trace(job, lambda phase: pipe.send("phase", phase=phase))))


if __name__ == "__main__":
    main()
