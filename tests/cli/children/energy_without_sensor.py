"""The process of an energy run on a machine whose only sensor may not be read."""

from memfloor.experiments import energy_job
from memfloor.experiments.energy_child import main
from memfloor.measure.nvml import Unanswered


def refuse(device):
    raise Unanswered("no energy sensor answers: RAPL: Permission denied")


if __name__ == "__main__":
    energy_job.open_meter = refuse
    main()
