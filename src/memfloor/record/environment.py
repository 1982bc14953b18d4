"""Where a run was taken, and the path that its steps really took."""

from typing import Literal

from pydantic import Field

from memfloor.record.frozen import Frozen

# A sensor that cannot answer is recorded in its own words, never as a zero.
Reading = float | str


class DeviceInfo(Frozen):
    """Describe the device a run was taken on, as its driver does."""

    kind: Literal["cpu", "cuda"]
    name: str
    memory_bytes: int
    last_level_cache_bytes: int | None
    cores: int
    driver_version: str | None = None
    compute_capability: str | None = None


class Environment(Frozen):
    """Record where a run was taken, and what else went on there.

    Attributes:
        threads: Threads the runtime was allowed.
        foreign_load: Busy share of the host's cores that was not this process, over the run.
        sensors_before: Clocks, temperatures and power before the first step, by sensor name and unit.
        sensors_after: The same after the last step.
    """

    device: DeviceInfo
    cpu_name: str
    logical_cpus: int
    host_memory_bytes: int
    kernel: str
    python: str
    packages: dict[str, str]
    git_commit: str | None
    huge_pages: str
    threads: int
    load_average: float
    foreign_load: float
    foreign_gpu_processes: int | str | None = None
    sensors_before: dict[str, Reading]
    sensors_after: dict[str, Reading]


class OutputError(Frozen):
    """Record how far a step's result was from the same arithmetic in float32 on the same tensors.

    Attributes:
        relative_norm: Norm of the difference over the norm of the float32 result.
        max_abs: Largest difference of one number.
    """

    relative_norm: float = Field(ge=0)
    max_abs: float = Field(ge=0)


class ObservedPath(Frozen):
    """Record the path a step really took, read off the running model, not off the request.

    Attributes:
        operators: Calls per step of each framework operator or kernel.
        facts: What the runtime can say of itself, such as its attention implementation and dtypes.
        output_error: Of its result; None where it was not compared.
        plan_seconds: Time that the host spent planning the step ahead of it, outside the timed steps; None where
            nothing was planned.
    """

    operators: dict[str, int]
    facts: dict[str, str]
    output_error: OutputError | None = None
    plan_seconds: float | None = Field(default=None, ge=0)
