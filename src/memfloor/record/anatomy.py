"""The schema of an anatomy: timed steps, and what every kernel of other, traced steps did."""

from typing import Literal, Self

from pydantic import Field, model_validator

from memfloor.record.ceiling import CeilingReading
from memfloor.record.frozen import Frozen
from memfloor.record.run import Step, Timed

# What a product of quantised weights does beside multiplying, as scaling or widening them, is `dequantization`.
Role = Literal["weights", "dequantization", "attention", "cache", "elementwise", "sampling"]


class TracedKernel(Frozen):
    """Hold one kernel of a step: what it is, and when it ran in each traced step.

    On a CPU a kernel is an operator of the framework, with the time it does not spend in operators it calls, or an
    operation of the engine's plan.

    Attributes:
        name: Name of the kernel, cut short.
        op: Operator that launched it, or the operation of the engine's plan.
        scope: Module it belongs to, such as `model.layers.3.mlp.up_proj`; empty outside of any.
        layer: Decoder layer; None outside of all.
        role: What part of the step it is.
        read_bytes: Bytes of weights or of the KV cache it must read.
        start_seconds: Start in each traced step, since the start of the first kernel, or of the step on a CPU.
        seconds: Duration in each traced step.
        launch_seconds: When the host launched it in each traced step, on the same time line; empty on a CPU.
    """

    name: str
    op: str
    scope: str = ""
    layer: int | None = None
    role: Role
    read_bytes: int = Field(default=0, ge=0)
    start_seconds: tuple[float, ...]
    seconds: tuple[float, ...]
    launch_seconds: tuple[float, ...] = ()


class StepTrace(Frozen):
    """Hold the kernels of traced steps, in the order of their start.

    Attributes:
        tool: What took the trace, with its version.
        device: Whose time line the kernels lie on.
        step_seconds: Each traced step: on a GPU from the start of its first kernel to the end of its last one.
        lead_seconds: From each step's start on the host to the start of its first kernel; empty on a CPU.
        issue_seconds: From each step's start on the host to the return of its call; empty on a CPU and in old records.
        kernels: The same kernels in every traced step.
        launches: Calls per step of the driver that launch, allocate or wait, by name.
        ceilings: Readings of the ceiling right before and right after each traced step; empty where none were taken.
        other_steps: Traced steps left out because they ran other kernels than most.
        labelled: How kernels got their scope: by modules of a second trace, by the plan, or by their own names alone.
    """

    tool: str
    device: Literal["cpu", "cuda"]
    step_seconds: tuple[float, ...] = Field(min_length=1)
    lead_seconds: tuple[float, ...] = ()
    issue_seconds: tuple[float, ...] = ()
    kernels: tuple[TracedKernel, ...] = Field(min_length=1)
    launches: dict[str, int]
    ceilings: tuple[tuple[CeilingReading, CeilingReading], ...] = ()
    other_steps: int = Field(default=0, ge=0)
    labelled: Literal["modules", "plan", "names"]

    @model_validator(mode="after")
    def _every_kernel_in_every_step(self) -> Self:
        steps = len(self.step_seconds)
        for kernel in self.kernels:
            times = (kernel.start_seconds, kernel.seconds, kernel.launch_seconds or kernel.seconds)
            if any(len(values) != steps for values in times):
                raise ValueError(f"kernel {kernel.name!r} has not one time for each of {steps} traced steps")
        if len(self.ceilings) not in (0, steps):
            raise ValueError(f"{len(self.ceilings)} pairs of ceilings stand beside {steps} traced steps")
        return self


class Anatomy(Timed):
    """Hold one anatomy: timed steps with their ceilings, and the trace of other steps taken in another process.

    Attributes:
        twin: The same operators on tensors too small to matter, timed in the process of the timed steps; empty where a
            step is not launched operator by operator.
        trace: The traced steps.
        twin_trace: Traced steps of the twin; on a CPU alone.
    """

    kind: Literal["anatomy"] = "anatomy"
    twin: tuple[Step, ...] = ()
    trace: StepTrace
    twin_trace: StepTrace | None = None
