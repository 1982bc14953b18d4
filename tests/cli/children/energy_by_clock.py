"""The process of an energy run whose sensor is a clock: always 40 W."""

import time
from types import SimpleNamespace

from memfloor.experiments import energy_job
from memfloor.experiments.energy_child import main
from memfloor.record import EnergySensor

SENSOR = EnergySensor(
    name="a clock", covers="nothing", quantity="joules", period_seconds=0.01, period_source="documented"
)


def by_clock(device):
    return SimpleNamespace(sensor=SENSOR, read=lambda: 40.0 * time.perf_counter())


if __name__ == "__main__":
    energy_job.open_meter = by_clock
    main()
