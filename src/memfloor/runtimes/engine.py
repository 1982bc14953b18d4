"""The project's own engine: one plan of own kernels, issued one by one or replayed in one launch."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from memfloor.engine.cpu import backend as cpu
from memfloor.engine.cuda import backend as cuda
from memfloor.errors import UsageError
from memfloor.record import Cell, ObservedPath, Outputs
from memfloor.runtimes.memory import require_memory
from memfloor.runtimes.protocol import DecodeRequest, TracedParts
from memfloor.spec import check_context

if TYPE_CHECKING:
    from memfloor.engine.decode import Decoder

BACKENDS = {"cuda": cuda, "cpu": cpu}
# What every device has.
LAUNCH_OPTIONS = {"launch": ("graph", "eager"), "steps": ("1", "2", "4", "8", "16")}


class Engine:
    """Decode at batch 1 with the project's own kernels.

    Options: `launch` = eager or graph (default); `steps` launched together (default 1); on CUDA `pdl` = off, flags or
    preload (default where the GPU has it), and `shapes` = default or tuned, those that `memfloor tune` found; on
    a CPU `isa`, the instruction set (default the best it has).
    """

    name: ClassVar[str] = "engine"
    summary: ClassVar[str] = "this project's engine: one plan of own kernels, eager or replayed as a graph"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **LAUNCH_OPTIONS,
        **cuda.OPTIONS,
        **cpu.OPTIONS,
    }

    def __init__(self, request: DecodeRequest) -> None:
        """Keep the request; allocate nothing yet."""
        self._request = request
        self._prompt: list[int] = request.prompt()[0].tolist()
        self._decoder: Decoder | None = None

    @classmethod
    def unavailable_reason(cls, cell: Cell | None = None) -> str | None:
        """Say why this runtime cannot run here, or this cell; None if it can."""
        if cell is None:
            reasons = [backend.machine_reason() for backend in BACKENDS.values()]
            return None if None in reasons else "; ".join(reasons)
        if cell.device not in BACKENDS:
            return f"device {cell.device} is not {' or '.join(BACKENDS)}"
        backend = BACKENDS[cell.device]
        for option in cell.options:
            if option not in LAUNCH_OPTIONS and option not in backend.OPTIONS:
                return f"option {option} is not for device {cell.device}"
        reason: str | None = backend.machine_reason() or backend.cell_reason(cell)
        return reason

    @classmethod
    def launches_one_by_one(cls, cell: Cell) -> bool:
        """Tell whether each call of the plan is issued from Python."""
        return cell.options.get("launch", "graph") == "eager"

    @classmethod
    def steps_per_call(cls, cell: Cell) -> int:
        """Return the steps that are launched together."""
        return int(cell.options.get("steps", "1"))

    def prepare(self) -> None:
        """Load weights, fill the KV cache up to `start_len` tokens and capture the step."""
        from memfloor.engine.decode import Decoder

        request, cell = self._request, self._request.cell
        max_len = request.start_len + request.max_steps
        check_context(cell.spec, max_len)
        require_memory(cell)
        model = BACKENDS[cell.device].build(cell, request.start_len, max_len, request.seed, request.report)
        self._decoder = Decoder(model, self._launch(), self.steps_per_call(cell))
        self.rewind()

    @classmethod
    def passes_over_prompts(cls, cell: Cell) -> bool:
        """Tell whether a library's products take a prompt in chunks, as on a GPU; a CPU takes it by decode steps."""
        return cell.device == "cuda"

    def prefill(self) -> None:
        """Fill the slots of the prompt anew and feed the first token again; on a GPU this returns before it is done."""
        self._prepared().prefill(self._prompt)
        self.rewind()

    def rewind(self) -> None:
        """Feed the first token again, at the slot behind the prompt; what later steps wrote is written over."""
        self._prepared().start(self._request.first_token, self._request.start_len)

    def step(self) -> None:
        """Take the steps of one call; on a GPU this returns before the device has finished."""
        self._prepared().step()

    def outputs(self, steps: int) -> Outputs:
        """Take the next steps and return their tokens and a digest of the last logits; waits for the device."""
        decoder = self._prepared()
        tokens = decoder.decode(steps)
        digest = hashlib.sha256(decoder.model.logits_bytes()).hexdigest()
        return Outputs(tokens=tuple((token,) for token in tokens), logits_sha256=digest)

    def forced_logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Feed each token in a step of the plan and return the logits that follow each, [T, V]; waits for the device.

        Raises:
            UsageError: Several steps are launched together, whose tokens cannot be given.
        """
        return self._prepared().forced_logits(tokens)

    def observed_path(self) -> ObservedPath:
        """Take the steps of one more call and report the launches of its plan and the types of its buffers."""
        decoder = self._prepared()
        decoder.step()
        model = decoder.model
        facts = {"launch": self._launch(), "max_len": str(model.max_len), **model.facts()}
        return ObservedPath(operators=model.plan.counts(), facts=facts)

    def traced_parts(self) -> TracedParts | None:
        """Return the plan, and on a CPU the clock of its operations by launch mode; None if a call is many steps."""
        decoder = self._prepared()
        if decoder.steps_per_issue > 1:
            return None
        model = decoder.model
        clock = {"graph": "timed_step", "eager": "timed_eager_step"}[self._launch()]
        return TracedParts(plan=model.plan, timed_step=getattr(model, clock, None))

    def _launch(self) -> str:
        return self._request.cell.options.get("launch", "graph")

    def _prepared(self) -> "Decoder":
        if self._decoder is None:
            raise UsageError("prepare the runtime before its first step")
        return self._decoder
