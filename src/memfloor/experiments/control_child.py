"""The process of a control loop: read a job from standard input, send events to the parent."""

import sys

from memfloor.experiments.child import answer, start_child
from memfloor.experiments.control_job import ControlJob, do_control
from memfloor.measure.environment import device_info


def main() -> None:
    """Run the loop, and send its cycles as they are taken."""
    pipe = start_child()
    job = ControlJob.model_validate_json(sys.stdin.read())

    def work() -> None:
        device = device_info(job.cell.device)
        pipe.send("device", device=device.model_dump())
        ended = do_control(job, device, pipe.send_result, lambda phase: pipe.send("phase", phase=phase))
        pipe.send_result("ended", ended)

    answer(pipe, work)


if __name__ == "__main__":
    main()
