import os

import pytest


@pytest.fixture(autouse=True)
def _affinity():
    """Give back the processors that a decode on the CPU binds its thread away from."""
    cpus = os.sched_getaffinity(0)
    yield
    if os.sched_getaffinity(0) != cpus:
        os.sched_setaffinity(0, cpus)
