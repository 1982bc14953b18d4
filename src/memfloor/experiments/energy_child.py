"""The process of an energy run: read a job from standard input, send events to the parent."""

import sys

from memfloor.experiments.child import EventPipe, answer, start_child
from memfloor.experiments.energy_job import EnergyJob, do_energy
from memfloor.measure.environment import device_info


def main() -> None:
    """Take the run and send what was measured."""
    pipe = start_child()
    job = EnergyJob.model_validate_json(sys.stdin.read())
    answer(pipe, lambda: _work(pipe, job))


def _work(pipe: EventPipe, job: EnergyJob) -> None:
    device = device_info(job.cell.device)
    pipe.send("device", device=device.model_dump())
    pipe.send_result("measured", do_energy(job, device, lambda phase: pipe.send("phase", phase=phase)))


if __name__ == "__main__":
    main()
