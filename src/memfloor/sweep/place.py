"""A worker's place on its machine: what it claims, and what it says of itself before its first run."""

import os
import platform
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

import memfloor
from memfloor.engine.cpu.native import allowed_cpus
from memfloor.errors import UsageError
from memfloor.experiments.one_run import OnEvent, RunOrder, take_one
from memfloor.measure.environment import device_name, package_versions
from memfloor.measure.nvml import ask
from memfloor.record import Failure, Run, Skip
from memfloor.sweep.claim import Claim, claim
from memfloor.sweep.plan import digest

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Setup(BaseModel):
    """Say what a worker is to be.

    Attributes:
        device: What decodes.
        cpus: CPUs that each run is bound to; None leaves all, which are claimed on a CPU alone.
        gpu: Number of the GPU; None leaves the first visible one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    cpus: int | None = None
    gpu: int | None = None


class Hello(BaseModel):
    """Hold what a worker says of itself.

    Attributes:
        memfloor: Version.
        python: Version.
        packages: Versions of the packages that decide a measurement.
        device: The device's name, as its driver says it.
        place: Digest that differs between any two devices, hosts, boots of one host, and sets of CPUs.
        cpus: CPUs that its runs are bound to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    memfloor: str
    python: str
    packages: dict[str, str]
    device: str
    place: str
    cpus: tuple[int, ...]


class Place:
    """Hold a worker's claim, and take runs bound to it."""

    def __init__(self, setup: Setup) -> None:
        """Claim what a worker needs, and bind its children to it.

        Raises:
            UsageError: There is no such device here, there are too few CPUs, or others hold them for too long.
        """
        if setup.gpu is not None:
            # Children inherit it; this process creates no CUDA context.
            os.environ["CUDA_VISIBLE_DEVICES"] = str(setup.gpu)
        name = device_name(setup.device)
        gpu = _gpu_id() if setup.device == "cuda" else None
        self._claims = [claim([gpu], 1)] if gpu else []
        self._cpus = self._bound_cpus(setup)
        self.hello = Hello(
            memfloor=memfloor.__version__,
            python=platform.python_version(),
            packages=package_versions(),
            device=name,
            place=digest(BOOT_ID.read_text().strip(), gpu, self._cpus),
            cpus=tuple(self._cpus),
        )

    def take(self, order: RunOrder, on_event: OnEvent) -> Run | Failure | Skip:
        """Take one run in a fresh child process that has this place's CPUs and no others."""
        # Of this thread, whose children inherit it.
        os.sched_setaffinity(0, self._cpus)
        return take_one(order, on_event)

    def leave(self) -> None:
        """Let others have what was claimed."""
        for held in self._claims:
            held.release()

    def _bound_cpus(self, setup: Setup) -> list[int]:
        allowed = allowed_cpus()
        if setup.cpus is None and setup.device != "cpu":
            return allowed
        wanted = setup.cpus or len(allowed)
        if wanted > len(allowed):
            raise UsageError(f"cpus must be 1 to {len(allowed)} on this machine, not {wanted}")
        held: Claim = claim([f"cpu-{number}" for number in allowed], wanted)
        self._claims.append(held)
        return [int(name.removeprefix("cpu-")) for name in held.names]


def _gpu_id() -> str:
    # A file's name is made of it.
    return re.sub(r"[^A-Za-z0-9-]", "-", str(ask(lambda nvml, gpu: nvml.nvmlDeviceGetUUID(gpu))))
