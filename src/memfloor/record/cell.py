"""What is run and how: one point of a grid, and the protocol of its runs."""

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from memfloor.errors import UsageError
from memfloor.record.ceiling import CPU_CEILING_PASSES
from memfloor.record.frozen import Frozen
from memfloor.spec import ModelSpec, Workload

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
