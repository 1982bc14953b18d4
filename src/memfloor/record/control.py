"""The schema of a control loop: every cycle of one process, each a prompt and some decode steps, due once a period."""

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from memfloor.record.ceiling import CeilingReading
from memfloor.record.frozen import Frozen
from memfloor.record.schema import Environment, ObservedPath, OfCell
from memfloor.spec import check_context


class Cycles(Frozen):
    """Hold the cycles of a loop in order, a column for each fact.

    Attributes:
        ticks: Periods since the loop began at which each cycle was due; a cycle that is not over when the next ones are
            due leaves them out. Without a pace they count the cycles.
        late_seconds: From when a cycle was due to when it began; empty without a pace.
        prefill_seconds: Of the prompt, by the host's clock up to the end of the work; empty where none was taken.
        decode_seconds: Of all decode steps together, likewise.
        device_decode_seconds: The same between two events of the device; empty where it has no clock.
        busy_seconds: From the beginning of a cycle to its end, with all that lies between.
        facts: What else happened in each cycle, by its name and unit: counts of the process while it was busy, counts
            of the host since the cycle before, and readings at its end.
        silent: Facts that could not be had, and why.
    """

    ticks: tuple[int, ...] = Field(min_length=2)
    late_seconds: tuple[float, ...] = ()
    prefill_seconds: tuple[float, ...] = ()
    decode_seconds: tuple[float, ...]
    device_decode_seconds: tuple[float, ...] = ()
    busy_seconds: tuple[float, ...]
    facts: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    silent: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_each_cycle(self) -> Self:
        given = self.late_seconds, self.prefill_seconds, self.device_decode_seconds
        columns = self.decode_seconds, self.busy_seconds, *self.facts.values(), *filter(None, given)
        if any(len(column) != len(self.ticks) for column in columns):
            raise ValueError(f"not every column has a value for each of {len(self.ticks)} cycles")
        if any(after <= before for before, after in pairwise(self.ticks)):
            raise ValueError("the ticks of cycles do not rise")
        return self


class ControlLoop(OfCell):
    """Hold one process that ran a control loop; its cell's context is the prompt that each cycle starts from.

    Attributes:
        period_seconds: Time between two ticks, by which a cycle must have ended.
        steps: Decode steps of a cycle.
        paced: Whether cycles waited for their tick, or ran one after another.
        no_prefill: Why a cycle decodes only, from a prompt that lies in the cache; None where it prefills it.
        warmup_cycles: Cycles at the beginning that do not count.
        ceilings: Readings before the first cycle and after the last one.
    """

    kind: Literal["control_loop"] = "control_loop"
    period_seconds: float = Field(gt=0)
    steps: int = Field(ge=1)
    paced: bool = True
    no_prefill: str | None = None
    warmup_cycles: int = Field(ge=0)
    cycles: Cycles
    ceilings: tuple[CeilingReading, CeilingReading]
    environment: Environment
    path: ObservedPath

    @model_validator(mode="after")
    def _columns_of_its_kind(self) -> Self:
        if bool(self.cycles.late_seconds) != self.paced:
            raise ValueError("a loop says how late its cycles began if, and only if, it keeps a pace")
        if bool(self.cycles.prefill_seconds) == bool(self.no_prefill):
            raise ValueError("a loop times its prompts, or says why not")
        if len(self.cycles.ticks) <= self.warmup_cycles:
            raise ValueError(f"no cycle follows {self.warmup_cycles} for warming up")
        check_context(self.cell.spec, self.cell.workload.context_len + self.steps)
        return self
