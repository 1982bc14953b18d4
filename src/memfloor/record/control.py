"""The schema of a control loop: every cycle of one process, each a prompt and some decode steps, due once a period."""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Literal, Self, TypeVar

from pydantic import Field, model_validator

from memfloor.record.ceiling import CeilingReading
from memfloor.record.environment import Environment, ObservedPath
from memfloor.record.frozen import Frozen
from memfloor.record.run import OfCell
from memfloor.spec import check_context

Value = TypeVar("Value")


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

    ticks: tuple[int, ...] = Field(min_length=1)
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

    @classmethod
    def joined(cls, parts: "Sequence[Cycles]") -> Self:
        """Return the cycles of all parts, one after another; a fact that some part lacks has no column.

        Args:
            parts: At least one, of one loop.
        """
        names = [name for name in cls.model_fields if name not in ("facts", "silent")]
        columns = {name: tuple(chain.from_iterable(getattr(part, name) for part in parts)) for name in names}
        facts = [name for name in parts[0].facts if all(name in part.facts for part in parts)]
        return cls(
            **columns,
            facts={name: tuple(chain.from_iterable(part.facts[name] for part in parts)) for name in facts},
            silent=parts[-1].silent,
        )


class LoopAsked(OfCell):
    """Say which control loop one process is asked for; its cell's context is the prompt that each cycle starts from.

    Attributes:
        period_seconds: Time between two ticks, by which a cycle must have ended.
        steps: Decode steps of a cycle.
        paced: Whether cycles waited for their tick, or ran one after another.
        no_prefill: Why a cycle decodes only, from a prompt that lies in the cache; None where it prefills it.
        warmup_cycles: Cycles at the beginning that do not count.
        planned_seconds: How long the cycles of its block go on in all after warming up, in one process or in some that
            go on after one another; None in older records.
        planned_runs: Blocks of its session; None in older records.
    """

    period_seconds: float = Field(gt=0)
    steps: int = Field(ge=1)
    paced: bool = True
    no_prefill: str | None = None
    warmup_cycles: int = Field(ge=0)
    planned_seconds: float | None = Field(default=None, gt=0)
    planned_runs: int | None = Field(default=None, ge=1)


class ControlLoop(LoopAsked):
    """Hold one process that ran a control loop.

    Attributes:
        cycles: All that are known, those for warming up included.
        ceilings: Readings before the first cycle and after the last one; of an interrupted loop the first alone.
        environment: Over the loop; of an interrupted one as it was before the first cycle.
        path: As it was observed after the last cycle; None of an interrupted loop.
        interrupted: How the loop ended before its time; None where it did not.
    """

    kind: Literal["control_loop"] = "control_loop"
    cycles: Cycles
    ceilings: tuple[CeilingReading, ...] = Field(min_length=1, max_length=2)
    environment: Environment
    path: ObservedPath | None
    interrupted: str | None = None

    @model_validator(mode="after")
    def _columns_of_its_kind(self) -> Self:
        if bool(self.cycles.late_seconds) != self.paced:
            raise ValueError("a loop says how late its cycles began if, and only if, it keeps a pace")
        if bool(self.cycles.prefill_seconds) == bool(self.no_prefill):
            raise ValueError("a loop times its prompts, or says why not")
        if len(self.cycles.ticks) <= self.warmup_cycles:
            raise ValueError(f"no cycle follows {self.warmup_cycles} for warming up")
        if (self.path is None or len(self.ceilings) < 2) and self.interrupted is None:
            raise ValueError("a loop that was not interrupted has an observed path and a ceiling after it")
        check_context(self.cell.spec, self.cell.workload.context_len + self.steps)
        return self

    def counted(self, column: Sequence[Value]) -> Sequence[Value]:
        """Return the values of the cycles that count, without those for warming up; empty for a column that is."""
        return column[self.warmup_cycles :]

    @property
    def watched_seconds(self) -> float:
        """Return the time of the periods that count; without a pace, of the cycles."""
        if not self.paced:
            return sum(self.counted(self.cycles.busy_seconds))
        ticks = self.cycles.ticks
        return (ticks[-1] - ticks[self.warmup_cycles] + 1) * self.period_seconds
