"""The machines of a plan, by the executor that reaches them."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from memfloor.errors import UsageError
from memfloor.hardware import find_device
from memfloor.prices import parse_price

# A load of several GB and some seconds of steps; stated wherever an estimate rests on it.
ASSUMED_RUN_SECONDS = {"cpu": 30.0, "cuda": 60.0}
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Said(BaseModel):
    """Be a part of a plan file, and refuse keys that are unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Machine(Said):
    """Name machines of one kind, which share the blocks of their cells.

    Attributes:
        name: What they are called; part of the identity of their runs.
        device: What decodes.
        hardware: Short name in the catalogue of devices; checked against what each machine says, and priced.
        cpus: CPUs that each run is bound to and has for itself; on a CPU all of the machine's unless given.
        run_seconds: Time of a run where no record tells.
        price: An hour of one worker, AMOUNT:CURRENCY:DATE; that of the catalogue unless given.
        provider: Whose price of the catalogue; the range over all of them unless given.
    """

    name: str = Field(pattern=NAME)
    device: Literal["cpu", "cuda"]
    hardware: str | None = None
    cpus: int | None = Field(default=None, ge=1)
    run_seconds: float | None = Field(default=None, gt=0)
    price: str | None = None
    provider: str | None = None

    @property
    def assumed_run_seconds(self) -> float:
        """Return how long a run is taken to last where no record tells."""
        return self.run_seconds or ASSUMED_RUN_SECONDS[self.device]

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.hardware is not None:
            find_device(self.hardware)
        if self.price is not None:
            parse_price(f"{self.hardware or self.name}={self.price}")
        return self


class LocalMachine(_Machine):
    """Be the driver's own machine.

    Attributes:
        gpus: Numbers of its GPUs, a worker for each; the first visible one unless given.
        workers: Workers on CPUs, each with `cpus` of them.
    """

    executor: Literal["local"]
    gpus: tuple[int, ...] = ()
    workers: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _workers_apart(self) -> Self:
        _check_gpus(self.device, self.gpus)
        if self.workers > 1 and (self.device == "cuda" or self.cpus is None):
            raise UsageError("several workers on one machine need device = 'cpu' and cpus, or a list of gpus")
        return self


class SshMachine(_Machine):
    """Be machines that are reached over SSH without a password.

    Attributes:
        hosts: As `ssh` takes them.
        gpus: Numbers of each host's GPUs, a worker for each; the first visible one unless given.
        python: Python that has memfloor, on each host.
    """

    executor: Literal["ssh"]
    hosts: tuple[Annotated[str, Field(pattern=r"^[^\s-]\S*$")], ...] = Field(min_length=1)
    gpus: tuple[int, ...] = ()
    python: str = "python3"

    @model_validator(mode="after")
    def _workers_apart(self) -> Self:
        _check_gpus(self.device, self.gpus)
        if len(set(self.hosts)) < len(self.hosts):
            raise UsageError("a host is given twice")
        return self


class RayMachine(_Machine):
    """Be nodes of a Ray cluster.

    Attributes:
        accelerator_type: Ray's name of the GPU, such as H100; each worker has a whole one for itself.
        workers: How many at once; as many as the cluster has place for unless given.
    """

    executor: Literal["ray"]
    accelerator_type: str | None = None
    workers: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _resources_said(self) -> Self:
        if self.device == "cuda" and self.accelerator_type is None:
            raise UsageError("device 'cuda' on Ray needs an accelerator_type, such as H100")
        if self.device == "cpu" and (self.cpus is None or self.accelerator_type is not None):
            raise UsageError("device 'cpu' on Ray needs cpus, best all those of a node, and no accelerator_type")
        return self


Machine = LocalMachine | SshMachine | RayMachine


def _check_gpus(device: str, gpus: Sequence[int]) -> None:
    if device == "cpu" and gpus:
        raise UsageError("gpus are of device 'cuda', not 'cpu'")
    if len(set(gpus)) < len(gpus):
        raise UsageError("a GPU is given twice")
