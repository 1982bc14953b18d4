"""The schema of a record: raw facts of one run, one failure or one skip; everything else is derived when reading."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from memfloor.errors import UsageError
from memfloor.record.ceiling import CPU_CEILING_PASSES, CeilingReading, paired_ceiling
from memfloor.record.frozen import MOST, Frozen
from memfloor.spec import ModelSpec, Workload, check_context

SCHEMA_VERSION = 1
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00")

# A sensor that cannot answer is recorded in its own words, never as a zero.
Reading = float | str
# What of a decode step a run times: all of it, or the attention of all its layers alone.
StepPart = Literal["step", "attention"]


class Protocol(Frozen):
    """Fix how one run is taken; the defaults are the study's.

    Attributes:
        warmup_steps: Steps before the timed ones.
        timed_steps: Timed steps, cut into parts.
        parts: Parts of the timed steps; the ceiling is read before, between and after them.
        ceiling_passes: Passes of one reading of the ceiling.
    """

    warmup_steps: int = Field(default=5, ge=1)
    timed_steps: int = Field(default=30, ge=2)
    parts: int = Field(default=2, ge=1)
    ceiling_passes: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _every_part_has_a_step(self) -> Self:
        if self.parts > self.timed_steps:
            raise ValueError(f"{self.timed_steps} timed steps cannot be cut into {self.parts} parts")
        return self

    @classmethod
    def on(cls, device: str, **given: int) -> Self:
        """Return the protocol for a kind of device: on a CPU a reading of the ceiling beside each timed step."""
        protocol = cls(**given)
        if device != "cpu":
            return protocol
        return protocol.model_copy(update={"parts": protocol.timed_steps, "ceiling_passes": CPU_CEILING_PASSES})

    @property
    def part_steps(self) -> tuple[int, ...]:
        """Return the timed steps of each part, as equal as can be."""
        ends = [self.timed_steps * part // self.parts for part in range(self.parts + 1)]
        return tuple(end - begin for begin, end in pairwise(ends))

    @property
    def total_steps(self) -> int:
        """Count every step a run takes: warm-up, timed, and one settling step after each ceiling between two parts."""
        return self.warmup_steps + self.timed_steps + self.parts - 1


class Cell(Frozen):
    """Name one point of a grid: what is decoded, by which runtime, on which kind of device.

    Attributes:
        options: Options of the runtime, as given.
        threads: CPU threads of the runtime and of the ceiling; None leaves every allowed core.
        prefill: Whether the KV cache is filled by a real prefill instead of random numbers.
        weights_from: Local checkpoint directory; None stands for random weights at the true shape.
        arm: Tells two arms of a comparison apart that are the same in everything else; None otherwise.
        part: What of a decode step is run.
    """

    spec: ModelSpec
    workload: Workload
    runtime: str
    options: dict[str, str] = Field(default_factory=dict)
    device: Literal["cpu", "cuda"]
    threads: int | None = Field(default=None, ge=1)
    prefill: bool = False
    weights_from: str | None = None
    arm: Literal["baseline", "candidate"] | None = None
    part: StepPart = "step"

    @property
    def runtime_text(self) -> str:
        """Return the runtime as the command line takes it, such as `hf-static,launch=graph`."""
        return ",".join([self.runtime, *(f"{name}={value}" for name, value in sorted(self.options.items()))])

    @property
    def key(self) -> str:
        """Return a readable key that differs between any two different cells of one device."""
        w = self.workload
        parts = [
            self.spec.name,
            self.spec.fingerprint,
            self.runtime,
            *(f"{k}={v}" for k, v in sorted(self.options.items())),
        ]
        parts += [f"ctx{w.context_len}", f"b{w.batch}", w.weights, f"head-{w.head}", f"kv-{w.kv}", self.device]
        parts += [f"t{self.threads}"] if self.threads else []
        parts += ["prefill"] if self.prefill else []
        parts += [f"from-{self.weights_from}"] if self.weights_from else []
        parts += [f"arm-{self.arm}"] if self.arm else []
        parts += [self.part] if self.part != "step" else []
        return " ".join(parts)


def parse_runtime(text: str) -> tuple[str, dict[str, str]]:
    """Return the name and the options of `RUNTIME[,option=value…]`, which is what `Cell.runtime_text` gives.

    Raises:
        UsageError: A part after the name is not of the form option=value.
    """
    name, *parts = text.split(",")
    options = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise UsageError(f"runtime option {part!r} is not of the form option=value")
        options[key] = value
    return name, options


class Step(Frozen):
    """Hold one step's time: by the synchronised host clock and, on a GPU, between two events on its stream.

    Attributes:
        issue_seconds: On a GPU, by the host's clock until everything was launched.
    """

    phase: Literal["warmup", "timed", "settle"]
    host_seconds: float = Field(gt=0)
    device_seconds: float | None = Field(default=None, gt=0)
    issue_seconds: float | None = Field(default=None, gt=0)

    @property
    def seconds(self) -> float:
        """Return the time by the device's clock where there is one."""
        return self.device_seconds or self.host_seconds


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


class Stored(Frozen):
    """Be a record of its own: with an identity, and the session it belongs to."""

    schema_version: Literal[1] = 1
    record_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    session_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    taken_at: str

    @field_validator("taken_at")
    @classmethod
    def _is_a_time_in_utc(cls, value: str) -> str:
        if not UTC_TIME.fullmatch(value):
            raise ValueError(f"{value!r} is no time such as 2026-11-28T05:00:00.000+00:00")
        datetime.fromisoformat(value)
        return value


class OfCell(Stored):
    """Belong to one cell and one block of its session."""

    block: int = Field(ge=0, le=MOST)
    seed: int | None = None
    cell: Cell


@dataclass(frozen=True, slots=True)
class Part:
    """Hold one part of a run's timed steps, between two readings of the ceiling.

    Attributes:
        steps: Places of its timed steps among all steps of the run.
        step_seconds: Its median timed step.
        ceiling_bytes_per_second: Of the passes right before and right after it.
        steady: Whether bandwidth kept steady meanwhile.
    """

    steps: tuple[int, ...]
    step_seconds: float
    ceiling_bytes_per_second: float
    steady: bool


class Timed(OfCell):
    """Hold one fresh process's steps, in order, with its paired ceilings.

    Attributes:
        steps_per_call: Decode steps that each of `steps` took one after another, launched together; what is read off by
            the properties is per decode step.
    """

    protocol: Protocol
    steps_per_call: int = Field(default=1, ge=1, le=MOST)
    steps: tuple[Step, ...]
    ceilings: tuple[CeilingReading, ...] = Field(min_length=2)
    environment: Environment
    path: ObservedPath

    @model_validator(mode="after")
    def _has_a_timed_part(self) -> Self:
        if next(self.parts(), None) is None:
            raise ValueError("no timed step lies between two readings of the ceiling")
        return self

    @model_validator(mode="after")
    def _is_within_its_model(self) -> Self:
        check_context(self.cell.spec, self.cell.workload.context_len)
        return self

    @cached_property
    def step_seconds(self) -> tuple[float, ...]:
        """Return the timed steps, by the device's clock where there is one."""
        return tuple(step.seconds / self.steps_per_call for step in self.steps if step.phase == "timed")

    @property
    def issue_seconds(self) -> float | None:
        """Return the median time in which the host launched a timed step; None where it was not taken."""
        issued = [step.issue_seconds for step in self.steps if step.phase == "timed" and step.issue_seconds]
        return median(issued) / self.steps_per_call if issued else None

    @cached_property
    def p50_seconds(self) -> float:
        """Return the median timed step, the study's statistic."""
        return median(self.step_seconds)

    @cached_property
    def ceiling_bytes_per_second(self) -> float:
        """Return the paired ceiling: the median of its readings before, between and after the timed steps."""
        return median(reading.bytes_per_second for reading in self.ceilings)

    def fraction_of_ceiling(self, step_bytes: int) -> float:
        """Return the share of the paired ceiling that steps of so many bytes reach.

        The share is formed part by part, the median step of a part against the passes right before and after it, and
        their median is returned. Parts while bandwidth changed are left out unless all of them are.
        """
        return median(step_bytes / seconds / rate for seconds, rate in self._steady_parts)

    @cached_property
    def _steady_parts(self) -> list[tuple[float, float]]:
        parts = list(self.parts())
        steady = [part for part in parts if part.steady] or parts
        return [(part.step_seconds, part.ceiling_bytes_per_second) for part in steady]

    def parts(self) -> Iterator[Part]:
        """Give the parts that hold a timed step, in order."""
        for before, after in pairwise(self.ceilings):
            between = range(before.after_steps, min(after.after_steps, len(self.steps)))
            timed = tuple(place for place in between if self.steps[place].phase == "timed")
            if timed:
                rate, steady = paired_ceiling(before, after)
                seconds = median(self.steps[place].seconds for place in timed) / self.steps_per_call
                yield Part(timed, seconds, rate, steady)


class Run(Timed):
    """Hold one run of a cell: the unit of resampling."""

    kind: Literal["run"] = "run"


class Failure(OfCell):
    """Record a run that was started and gave no times."""

    kind: Literal["failure"] = "failure"
    cause: Literal["out_of_memory", "died", "timed_out", "error"]
    last_words: str
    device: DeviceInfo | None = None


class Skip(OfCell):
    """Record a cell that cannot run here, and why."""

    kind: Literal["skip"] = "skip"
    reason: str
    device: DeviceInfo | None = None
