"""Launch shapes checked against float32 and timed in whole steps of a model cut to a few layers."""

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
# Logits may differ from float32's by so much of their norm; bf16 activations cost a few thousandths.
TOLERANCE = 2e-2
# A second-level cache must not keep weights from one step to the next.
CACHE_MULTIPLE, FEWEST_LAYERS = 4, 4
WARMUP_STEPS, TIMED_STEPS = 3, 25


def cut_beyond(spec: ModelSpec, workload: Workload, cache_bytes: int) -> ModelSpec:
    """Return a model of the fewest layers whose weights are several times as large as a cache."""
    one = step_traffic(spec.model_copy(update={"num_hidden_layers": 1, "num_sliding_layers": 0}), workload)
    layer_bytes = one.attention_weights + one.mlp_weights
    wanted = max(FEWEST_LAYERS, -(-CACHE_MULTIPLE * cache_bytes // layer_bytes))
    layers = min(spec.num_hidden_layers, wanted)
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
