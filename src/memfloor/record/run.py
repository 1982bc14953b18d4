"""One process's steps, or why it gave none: raw facts, from which everything else is derived when they are read."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from memfloor.record.ceiling import CeilingReading, paired_ceiling
from memfloor.record.cell import Cell, Protocol
from memfloor.record.environment import DeviceInfo, Environment, ObservedPath
from memfloor.record.frozen import MOST, Frozen
from memfloor.spec import check_context

SCHEMA_VERSION = 1
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00")


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

    @property
    def lost_reason(self) -> str:
        """Return why there are no times."""
        return f"{self.cause.replace('_', ' ')}: {self.last_words}"


class Skip(OfCell):
    """Record a cell that cannot run here, and why."""

    kind: Literal["skip"] = "skip"
    reason: str
    device: DeviceInfo | None = None

    @property
    def lost_reason(self) -> str:
        """Return why there are no times."""
        return self.reason
