"""Quantised weights for gpu_tune.py: launch shapes worth timing, and their kernels compiled beforehand side by side.

A sweep compiles some fifty kernels, two seconds each; processes of their own compile them into Triton's cache.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

import torch
from gpu_bench import MAX_LEN, Shape, Study

from memfloor.engine.cuda.calls import KernelCall
from memfloor.engine.cuda.launch_shapes import LaunchShapes, ProjectionShape, RowShape
from memfloor.engine.cuda.model import DecodeModel
from memfloor.engine.cuda.weights import pack_weights
from memfloor.engine.kernels.dependency import MODES
from memfloor.floor import projections
from memfloor.spec import ModelSpec, weight_format

WORKERS = 12


def quantized_candidates(op: str, weights: str) -> list[Shape]:
    """Return launch shapes of a quantised operation worth timing, the likeliest first."""
    narrow = weight_format(weights).bits == 4
    if op in ("o_proj", "down_proj"):
        return [ProjectionShape(*cut, ahead=ahead) for cut in _projection_cuts(narrow) for ahead in _aheads(cut[2])]
    return [RowShape(*cut) for cut in _row_cuts(narrow)]


def _row_cuts(narrow: bool) -> list[tuple[int, ...]]:
    cuts = [(4, 4), (8, 4), (2, 4), (4, 2), (8, 8), (8, 4, 128), (4, 4, 96)]
    return [(8, 2), *cuts, (16, 4), (16, 8)] if narrow else [*cuts, (2, 2), (1, 4)]


def _projection_cuts(narrow: bool) -> list[tuple[int, ...]]:
    cuts = [(16, 2048, 1, 4), (8, 2048, 2, 4), (16, 2048, 2, 4), (8, 4096, 1, 4), (16, 4096, 1, 8), (16, 2048, 1, 2)]
    if narrow:
        return [(16, 4096, 1, 4), (8, 4096, 1, 2), *cuts, (8, 4096, 5, 4), (16, 4096, 2, 4), (32, 2048, 1, 4)]
    return [*cuts, (8, 2048, 5, 4), (4, 4096, 1, 4), (32, 2048, 1, 8)]


def _aheads(steps: int) -> tuple[int, ...]:
    return (1,) if steps == 1 else (1, steps)


@dataclass(frozen=True)
class Job:
    """Say which kernels of a step to compile, for what shapes."""

    spec: ModelSpec
    weights: str
    head: str
    shapes: LaunchShapes
    op: str | None
    pdl: int


def compile_ahead(study: Study, ops: list[str]) -> None:
    """Compile every candidate of the operations, and the default shapes in every mode of overlap."""
    modes = [pdl for pdl in MODES.values() if pdl <= study.pdl]
    jobs = [Job(study.spec, *study.formats, study.shapes, None, pdl) for pdl in modes]
    for op in ops:
        for shape in quantized_candidates(op, study.format(op)):
            cut = replace(study.shapes, **{op: shape})
            jobs.append(Job(study.spec, *study.formats, cut, op, study.pdl))
    workers = min(WORKERS, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        problems = [problem for problem in pool.map(compile_job, jobs) if problem]
    study.say(f"compiled {len(jobs) - len(problems)} of {len(jobs)} jobs by {workers} processes")
    for problem in dict.fromkeys(problems):
        study.say(f"  not compiled beforehand: {problem}")


def compile_job(job: Job) -> str | None:
    """Compile a job's kernels into Triton's cache; return what went wrong, if anything did."""
    try:
        # Shapes and types decide what is compiled: there is no memory behind these tensors.
        spec = job.spec.model_copy(update={"num_hidden_layers": 1})
        weights = pack_weights(spec, meta_state(spec), torch.device("meta"), job.weights, job.head)
        calls = step_calls(DecodeModel(spec, weights, MAX_LEN, job.shapes, job.pdl))
        for call in calls.values() if job.op is None else [calls[job.op]]:
            call.kernel.warmup(*call.args, grid=(call.programs,), **call.constants, **call.options())
    except Exception as problem:  # noqa: BLE001
        return f"{job.op}: {type(problem).__name__} {str(problem)[-200:]}"
    return None


def step_calls(model: DecodeModel) -> dict[str, KernelCall]:
    """Return the calls of a step of one layer by operation."""
    names = ("qkv", "attention", "combine", "o_proj", "gate_up", "down_proj", "head", "sample")
    return dict(zip(names, model.plan.calls, strict=True)) | {"embed": model.embed}


def meta_state(spec: ModelSpec) -> dict[str, torch.Tensor]:
    """Return the state dict of a model of one layer, without memory behind it."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (spec.vocab_size, spec.hidden_size),
        "lm_head.weight": (spec.vocab_size, spec.hidden_size),
        "model.norm.weight": (spec.hidden_size,),
    }
    layer = "model.layers.0"
    for name, shape in projections(spec).items():
        part = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
        shapes[f"{layer}.{part}.{name}.weight"] = shape
        shapes[f"{layer}.{part}.{name}.bias"] = shape[:1]
    for name in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"{layer}.{name}.weight"] = (spec.hidden_size,)
    for name in ("q_norm", "k_norm"):
        shapes[f"{layer}.self_attn.{name}.weight"] = (spec.head_dim,)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
