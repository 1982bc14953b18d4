"""Launch shapes checked against float32 and timed in whole steps, for how launches overlap is what decides."""

from collections.abc import Callable
from functools import cached_property

import torch
from triton.errors import TritonError

from memfloor.engine.cuda.kv_cache import allocate_cache, fill_cache
from memfloor.engine.cuda.launch_shapes import LaunchShapes
from memfloor.engine.cuda.model import DecodeModel, device_rope
from memfloor.engine.cuda.weights import random_weights
from memfloor.engine.decode import Decoder
from memfloor.engine.reference import reference_logits
from memfloor.floor import step_traffic
from memfloor.spec import ModelSpec, Workload

TOKEN, CACHE_SEED = 77, 2
# Logits may differ from float32's by so much of their norm; activations in bf16 cost 28 layers some two hundredths.
TOLERANCE = 5e-2
WARMUP_STEPS, TIMED_STEPS = 3, 25
# Weights and cache may take so much of the memory that is free; scratch, logits and graphs take the rest.
ROOM_SHARE = 0.6


def cut_to_fit(spec: ModelSpec, workload: Workload, free_bytes: int) -> ModelSpec:
    """Return a model of as many layers as fit a memory, at least one: the whole model if it does."""
    one, two = (
        step_traffic(
            spec.model_copy(update={"num_hidden_layers": count, "num_sliding_layers": 0}), workload
        ).total_bytes
        for count in (1, 2)
    )
    fitting = 1 + max(0, int(ROOM_SHARE * free_bytes) - one) // (two - one)
    layers = min(spec.num_hidden_layers, fitting)
    return spec.model_copy(
        update={"num_hidden_layers": layers, "num_sliding_layers": min(layers, spec.num_sliding_layers)}
    )


class StepBench:
    """Build models that share one set of random weights and differ in their launch shapes."""

    def __init__(self, spec: ModelSpec, workload: Workload, device: torch.device, pdl: int) -> None:
        """Make the weights.

        Args:
            spec: The model, as many layers as are to be run.
            workload: Context and formats.
            device: A CUDA GPU; on a CPU the interpreter can check and not time.
            pdl: Mode of programmatic dependent launch, from `kernels.dependency`.
        """
        self.spec, self.workload, self.pdl = spec, workload, pdl
        self.weights = random_weights(spec, device, 1, workload.weights, workload.head)
        self.launches = ("eager", "graph") if device.type == "cuda" else ("eager",)

    def problem(self, shapes: LaunchShapes) -> str | None:
        """Say that it does not compile, is far from float32's logits, or that launches differ; None if all is well."""
        try:
            logits = [self._logits(shapes, launch) for launch in self.launches]
        except (TritonError, RuntimeError) as refusal:
            return f"{type(refusal).__name__}: {' '.join(str(refusal).split())[-200:]}"
        error = float((logits[0] - self._want).norm() / self._want.norm())
        # What is no number is not within the tolerance either.
        if not error < TOLERANCE:
            return f"logits are {error:.2g} of their norm away from float32's, beyond {TOLERANCE:g}"
        same = all(torch.equal(logits[0], other) for other in logits[1:])
        return None if same else f"{' and '.join(self.launches)} give different bits"

    def reader(self, shapes: LaunchShapes) -> Callable[[], float]:
        """Return what takes the mean of some steps of a replayed graph, in seconds, between events of the device."""
        decoder = Decoder(self._model(shapes), "graph")

        def read() -> float:
            decoder.start(TOKEN, self.workload.context_len)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(WARMUP_STEPS):
                decoder.step()
            begin.record()
            for _ in range(TIMED_STEPS):
                decoder.step()
            end.record()
            end.synchronize()
            return float(begin.elapsed_time(end)) / 1e3 / TIMED_STEPS

        return read

    @cached_property
    def _want(self) -> torch.Tensor:
        position, device = self.workload.context_len, self.weights.embedding.device
        cache = allocate_cache(self.spec, position, device, self.workload.kv)
        fill_cache(cache, position, CACHE_SEED)
        rope = device_rope(self.spec, position + 1, device)
        return reference_logits(self.spec, self.weights, cache, rope, TOKEN, position)

    def _logits(self, shapes: LaunchShapes, launch: str) -> torch.Tensor:
        model = self._model(shapes)
        decoder = Decoder(model, launch)
        decoder.start(TOKEN, self.workload.context_len)
        decoder.step()
        return model.logits

    def _model(self, shapes: LaunchShapes) -> DecodeModel:
        max_len = self.workload.context_len + WARMUP_STEPS + TIMED_STEPS
        model = DecodeModel(self.spec, self.weights, max_len, shapes, self.pdl, self.workload.kv)
        fill_cache(model.cache, self.workload.context_len, CACHE_SEED)
        return model
