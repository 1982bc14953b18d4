"""The process of a quality: read a job from standard input, send events to the parent."""

import sys

from memfloor.experiments.child import EventPipe, answer, start_child
from memfloor.experiments.quality_job import QualityJob, do_quality
from memfloor.measure.environment import device_info


def main() -> None:
    """Take the logits and send how far they are from the reference's."""
    pipe = start_child()
    job = QualityJob.model_validate_json(sys.stdin.read())
    answer(pipe, lambda: _work(pipe, job))


def _work(pipe: EventPipe, job: QualityJob) -> None:
    pipe.send("device", device=device_info(job.cell.device).model_dump())
    pipe.send_result("errors", do_quality(job, lambda phase: pipe.send("phase", phase=phase)))


if __name__ == "__main__":
    main()
