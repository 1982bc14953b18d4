"""Whole decode steps for gpu_tune.py: build them, time them, and check their logits and their bits."""

import itertools
import statistics
from typing import Any

import torch
from gpu_bench import CONTEXT, MAX_LEN, Study, relative_error

from memfloor.engine.cuda.kv_cache import fill_cache
from memfloor.engine.cuda.launch_shapes import LaunchShapes
from memfloor.engine.cuda.model import DecodeModel
from memfloor.engine.cuda.weights import random_weights
from memfloor.engine.decode import Decoder
from memfloor.engine.kernels.dependency import MODES
from memfloor.engine.reference import reference_logits
from memfloor.floor import step_traffic


def check_accuracy(study: Study, label: str, shapes: LaunchShapes) -> None:
    """Compare the logits of a two-layer cut of the model with float32, in every mode of overlap."""
    spec = study.spec.model_copy(update={"num_hidden_layers": 2})
    weights = random_weights(spec, study.device, 1, *study.formats)
    for mode, pdl in MODES.items():
        if pdl > study.pdl:
            continue
        model = DecodeModel(spec, weights, MAX_LEN, shapes, pdl)
        fill_cache(model.cache, CONTEXT, seed=2)
        want = reference_logits(spec, weights, model.cache, model.rope, 77, CONTEXT)
        decoder = Decoder(model, "eager")
        decoder.start(77, CONTEXT)
        decoder.step()
        error = relative_error(model.logits, want)
        same = int(want.argmax()) == int(model.token)
        study.say(f"{label}, two layers {mode}: logits relative error {error:.2e}, same token {same}")
        study.results.setdefault("accuracy", {})[f"{label} {mode}"] = error


def decode_bits(decoder: Decoder, steps: int) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Return the tokens, last logits and new cache slots of some steps from the context on."""
    decoder.start(77, CONTEXT)
    for _ in range(steps // decoder.steps_per_issue):
        decoder.step()
    model = decoder.model
    written = model.cache[:, :, :, CONTEXT : CONTEXT + steps].clone()
    return decoder.tokens(CONTEXT, steps), model.logits.clone(), written


def same_bits(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return a[0] == b[0] and bool(torch.equal(a[1], b[1])) and bool(torch.equal(a[2], b[2]))


def step_seconds(decoder: Decoder, issues: int) -> list[float]:
    """Return the time of each issue, by events between them."""
    decoder.start(77, CONTEXT)
    for _ in range(5):
        decoder.step()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(issues + 1)]
    marks[0].record()
    for mark in marks[1:]:
        decoder.step()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(marks)]


class Step:
    """Build whole models that share one set of weights, each with a cache of its own."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.weights = random_weights(study.spec, study.device, 1, *study.formats)
        traffic = step_traffic(study.spec, study.workload)
        self.floor_bytes = traffic.total_bytes

    def decoder(self, shapes: LaunchShapes, pdl: int, launch: str = "graph", steps: int = 1) -> Decoder:
        """Return a decoder whose cache is filled with the same numbers as every other's."""
        model = DecodeModel(self.study.spec, self.weights, MAX_LEN, shapes, pdl)
        fill_cache(model.cache, CONTEXT, seed=2)
        return Decoder(model, launch, steps)

    def median(self, shapes: LaunchShapes, issues: int = 40) -> float:
        """Return the median step in the best mode, one step per replay."""
        return statistics.median(step_seconds(self.decoder(shapes, self.study.pdl), issues))

    def say(self, label: str, times: list[float], steps: int) -> None:
        """Print one line of the table and keep the raw times."""
        study = self.study
        ordered = sorted(value / steps for value in times)
        median, p99 = statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))]
        rate = self.floor_bytes / median
        study.say(
            f"STEP {label:28s} p50 {median * 1e6:8.1f} us  p99/p50 {p99 / median:.3f}  {rate / 1e12:.3f} TB/s "
            f"= {rate / study.ceiling:.3f} of the ceiling"
        )
        study.results.setdefault("step", {})[label] = {"steps_per_replay": steps, "seconds": times}


def ways_to_launch(greatest_pdl: int) -> list[tuple[str, str, int]]:
    """Return the mode of overlap, launch and steps per replay of each way whose bits must be those of eager off."""
    launches = (("eager", 1), ("graph", 1), ("graph", 8))
    ways = [(mode, *launch) for mode, pdl in MODES.items() if pdl <= greatest_pdl for launch in launches]
    return [way for way in ways if way[:2] != ("off", "eager")]


def bits_label(label: str, mode: str, launch: str, steps: int) -> str:
    """Return the name under which a comparison of bits is kept."""
    return f"{label} {mode} {launch} x{steps}"


def check_bits(study: Study, step: Step, label: str, shapes: LaunchShapes) -> None:
    """Require the same bits from eager, graph, several steps per replay and every mode of overlap."""
    want = decode_bits(step.decoder(shapes, MODES["off"], "eager"), 32)
    study.say(f"{label}, eager off: tokens {want[0][:10]} finite {bool(torch.isfinite(want[1]).all())}")
    for mode, launch, steps in ways_to_launch(study.pdl):
        if study.remaining() < 10:
            continue
        got = decode_bits(step.decoder(shapes, MODES[mode], launch, steps), 32)
        study.say(f"{label}, bits {mode:8s} {launch} x{steps}: {'equal' if same_bits(got, want) else 'DIFFERENT'}")
        study.results.setdefault("bits", {})[bits_label(label, mode, launch, steps)] = same_bits(got, want)
