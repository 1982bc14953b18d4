"""Check and tune the engine's kernels on this machine's GPU, section by section.

Prints its progress and writes everything it measured to DIR/gpu_tune.json: `ceiling` (read-only bandwidth over launch
shapes), `accuracy` (logits of two layers), `kernels` (each kernel against its reference, then its launch shapes inside
a graph over distinct weights), `step` (the whole step: tuned, bits, time). Shapes that came through all of it are kept
in the user's cache for the engine's option shapes=tuned.
"""

import argparse
import json
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
import triton
from gpu_bench import (
    CONTEXT,
    I32,
    OPS,
    Bench,
    Shape,
    Study,
    issue,
    median_seconds,
    relative_error,
    seconds_per_work,
    section,
    short,
    zeros,
)
from gpu_quantized import compile_ahead, quantized_candidates
from gpu_steps import Step, bits_label, check_accuracy, check_bits, step_seconds, ways_to_launch

from memfloor.engine.cuda import calls
from memfloor.engine.cuda.launch_shapes import AttentionShape, LaunchShapes, ProjectionShape, RowShape
from memfloor.engine.cuda.matrix import FORMATS
from memfloor.engine.cuda.tuning import TunedOn, save_shapes
from memfloor.engine.kernels.dependency import MODES
from memfloor.engine.kernels.stream.reference import stream
from memfloor.spec import Workload

SECTIONS = ("ceiling", "accuracy", "kernels", "step")


# Ceiling ------------------------------------------------------------------------------------------------------


def measure_ceiling(study: Study, shapes: Iterable[tuple[int, int, int, int]]) -> None:
    """Sweep the launch shape of the read-only kernel; a torch copy stands beside it."""
    source = torch.randint(-(2**30), 2**30, (1 << 30,), dtype=I32, device="cuda")
    rows = []
    truth = stream(source)
    for block, unroll, warps, per_sm in shapes:
        if study.remaining() < 60:
            break
        groups = source.numel() // (block * unroll)
        programs = groups if per_sm == 0 else study.sms * per_sm
        partial = zeros(programs, I32)
        try:
            call = calls.stream_call(source, partial, block, unroll, warps)
            seconds = seconds_per_work([[call]] * 4, replays=5)
            total = (int(partial.sum(dtype=torch.int64)) + 2**31) % 2**32 - 2**31
        except Exception as problem:  # noqa: BLE001
            study.say(f"stream {block} {unroll} {warps} {per_sm}: {type(problem).__name__} {str(problem)[-150:]}")
            continue
        rows.append((source.numel() * 4 / seconds, block, unroll, warps, per_sm, total == truth))
    rows.sort(reverse=True)
    study.ceiling = rows[0][0]
    for rate, *shape, exact in rows[:6] + rows[-1:]:
        study.say(f"stream block/unroll/warps/per_sm {shape}: {rate / 1e12:.3f} TB/s exact={exact}")
    half = source.numel() // 2
    copy = median_seconds(lambda: source[:half].copy_(source[half:]), 7)
    study.say(f"CEILING {study.ceiling / 1e12:.3f} TB/s read-only; torch copy {2 * half * 4 / copy / 1e12:.3f} TB/s")
    study.results["ceiling"] = {
        "read_bytes_per_second": study.ceiling,
        "copy_bytes_per_second": 2 * half * 4 / copy,
        "rows": rows,
    }


# The fastest on an H200.
CEILING_SHAPE = (2048, 8, 8, 0)


def ceiling_shapes() -> Iterator[tuple[int, int, int, int]]:
    for warps in (4, 8):
        for unroll in (1, 2, 4, 8):
            for per_sm in (2, 4, 8, 0) if warps == 8 else (4, 8, 16, 0):
                yield warps * 128 * 2, unroll, warps, per_sm


# Kernels ------------------------------------------------------------------------------------------------------


def study_kernels(study: Study) -> None:
    """Check and sweep every kernel over one pool of random weights."""
    bench = Bench(study)
    section(study, "checks", lambda: check_kernels(study, bench))
    section(study, "sweep", lambda: sweep_kernels(study, bench))


def check_kernels(study: Study, bench: Bench) -> None:
    """Compare every kernel with its reference in every mode, three times each: tickets must reset themselves."""
    study.results["checks"] = {}
    for op in study.ops:
        shape = getattr(study.shapes, op)
        for mode, pdl in MODES.items():
            if pdl > study.pdl:
                continue
            try:
                error = kernel_error(bench, op, shape, pdl)
            except Exception:  # noqa: BLE001
                study.say(f"check {op} {mode} FAILED\n{traceback.format_exc(limit=4)}")
                continue
            study.results["checks"][f"{op} {mode}"] = error
            study.say(f"check {op:10s} {mode:8s} relative error {error:.2e} {'ok' if error < 1e-2 else 'WRONG'}")


def kernel_error(bench: Bench, op: str, shape: Shape, pdl: int) -> float:
    """Return the worst relative error of three launches with one set of weights."""
    w = bench.weights(op, 1)
    out = bench.outputs(op, shape)
    call = bench.call(op, w, out, shape, pdl)
    errors, want = [], bench.truth(op, w)
    for _ in range(3):
        out[0].zero_()
        issue(call)
        errors.append(relative_error(out[0], want))
    return max(errors)


def candidates(op: str) -> list[Shape]:
    """Return launch shapes worth timing, the likeliest first."""
    if op == "attention":
        return [
            AttentionShape(block_s, splits, warps)
            for block_s, splits, warps in (
                (64, 66, 4),
                (64, 66, 8),
                (32, 33, 4),
                (32, 66, 4),
                (128, 66, 8),
                (64, 17, 8),
            )
        ]
    if op in ("o_proj", "down_proj"):
        cuts = [(4, 1024, 4, 4, None, 1), (8, 2048, 2, 8, None, 1), (2, 2048, 10, 8, 128, 5), (2, 2048, 10, 8, 128, 10)]
        cuts += [(4, 4096, 1, 4), (4, 2048, 2, 4, None, 1), (4, 2048, 5, 8, None, 5), (2, 1024, 4, 4, None, 1)]
        cuts += [(8, 1024, 4, 8, None, 1), (4, 512, 7, 4, None, 1), (8, 4096, 1, 8), (4, 4096, 5, 16, 128, 5)]
        cuts += [(2, 2048, 10, 8, 128, 3), (2, 2048, 10, 8, 112, 5), (2, 1024, 4, 2, None, 1), (4, 1024, 10, 8, 128, 5)]
        return [ProjectionShape(*cut) for cut in cuts]
    halves = 2 if op in ("gate_up", "qkv") else 1
    cuts = [(4, 4), (8, 8), (2, 2), (4, 8), (2, 4), (8, 4), (16, 8), (16, 16), (4, 2)] + [(1, 1)] * (halves == 1)
    return [RowShape(rows // halves, warps) for rows, warps in cuts]


def sweep_kernels(study: Study, bench: Bench) -> None:
    """Time every candidate of every operation in a chain, with the best overlap the device offers."""
    study.results["sweep"] = {}
    order = [op for op in ("gate_up", "down_proj", "qkv", "o_proj", "attention", "head") if op in study.ops]
    for op in order:
        until = max(150.0, study.remaining() - (study.remaining() - 180) / (len(order) - order.index(op)))
        section(study, f"sweep {op}", lambda op=op, until=until: sweep_one(study, bench, op, until))


def sweep_one(study: Study, bench: Bench, op: str, until: float) -> None:
    """Time the candidates of one operation while more than `until` seconds of the budget remain."""
    rows: list[tuple[float, Shape]] = []
    floor = bench.bytes(op)
    form = study.format(op)
    others = candidates(op) if form == "bf16" else quantized_candidates(op, form)
    for shape in [getattr(study.shapes, op), *others]:
        if study.remaining() < until or any(shape == seen for _, seen in rows):
            continue
        try:
            error = kernel_error(bench, op, shape, study.pdl)
            seconds = seconds_per_work(bench.chain(op, shape, study.pdl))
        except Exception as problem:  # noqa: BLE001
            study.say(f"  {op} {shape}: {type(problem).__name__} {str(problem)[:100]}")
            continue
        if error > 1e-2:
            study.say(f"  {op} {shape}: WRONG, relative error {error:.2e}")
            continue
        rows.append((seconds, shape))
    if not rows:
        raise RuntimeError(f"no launch shape of {op} worked")
    default = rows[0]
    rows.sort(key=lambda row: row[0])
    study.ranked[op] = rows
    study.results["sweep"][op] = [{"seconds": s, "shape": asdict(shape)} for s, shape in rows]
    for seconds, shape in [*rows[:5], rows[-1], default]:
        study.say(f"  {op:10s} {seconds * 1e6:7.2f} us {floor / seconds / 1e12:.3f} TB/s {short(shape)}")
    best = rows[0][1]
    ladder = {mode: seconds_per_work(bench.chain(op, best, pdl)) for mode, pdl in MODES.items() if pdl <= study.pdl}
    study.results["sweep"][op + " ladder"] = ladder
    if op != "attention" and form == "bf16":
        ladder["torch.mv"] = bench.torch_seconds(op)
    rungs = ", ".join(f"{mode} {seconds * 1e6:.2f} us" for mode, seconds in ladder.items())
    study.say(f"BEST {op:10s} {short(best)}: {rungs}; at the ceiling {floor / study.ceiling * 1e6:.2f} us")


# Whole step ---------------------------------------------------------------------------------------------------


def tune_step(study: Study, step: Step) -> LaunchShapes:
    """Return the best launch shapes inside the whole step, one operation at a time among its fastest alone."""
    best = replace(study.shapes, **{op: rows[0][1] for op, rows in study.ranked.items() if rows})
    seconds = step.median(best)
    study.say(
        f"step with the best of each chain {seconds * 1e6:.1f} us; defaults {step.median(study.shapes) * 1e6:.1f}"
    )
    for op in ("gate_up", "down_proj", "qkv", "o_proj", "attention", "head"):
        for _, shape in study.ranked.get(op, [])[1:6]:
            if study.remaining() < 75:
                return best
            trial = replace(best, **{op: shape})
            took = step.median(trial)
            if took < seconds * 0.9995:
                study.say(f"  {op}: {short(shape)} {seconds * 1e6:.1f} -> {took * 1e6:.1f} us")
                best, seconds = trial, took
    return best


def time_step(study: Study) -> None:
    """Tune, check and time the whole step in every mode."""
    step = Step(study)
    study.say(f"weights ready, {torch.cuda.memory_allocated() / 1e9:.1f} GB; floor {step.floor_bytes / 1e9:.3f} GB")
    shapes = tune_step(study, step)
    study.shapes = shapes
    study.results["shapes"] = {op: asdict(getattr(shapes, op)) for op in OPS}
    for op in OPS:
        study.say(f"  chosen {op}: {short(getattr(shapes, op))}")
    for mode, pdl in reversed(MODES.items()):
        for steps in (1, 4, 8):
            if pdl > study.pdl or study.remaining() < 20:
                continue
            times = step_seconds(step.decoder(shapes, pdl, "graph", steps), max(25, 200 // steps))
            step.say(f"graph {mode} x{steps}", times, steps)
    step.say("eager off", step_seconds(step.decoder(shapes, MODES["off"], "eager"), 30), 1)
    study.save()
    check_bits(study, step, "chosen", shapes)
    keep_shapes(study, step, shapes)


def keep_shapes(study: Study, step: Step, shapes: LaunchShapes) -> None:
    """Keep shapes for the engine's shapes=tuned, unless nothing was swept or some way to launch may have other bits."""
    equal = study.results.get("bits", {})
    wanted = [bits_label("chosen", *way) for way in ways_to_launch(study.pdl)]
    problems = [label for label in wanted if not equal.get(label)]
    if not study.ranked or problems:
        study.say(f"nothing kept for shapes=tuned: no sweep, or bits that differ or were not compared: {problems}")
        return
    tuned_on = TunedOn.of(study.spec, *study.formats, study.properties, triton.__version__)
    study.say(f"kept for shapes=tuned: {save_shapes(tuned_on, shapes, step.median(shapes))}")


def choices(workload: Workload, sections: str | None, ops: str | None) -> tuple[list[str], list[str]]:
    """Return the sections and operations to run: those asked for, or what a format has not shared with bf16."""
    formats = {"head": workload.head, "attention": "bf16"}
    quantised = [op for op in OPS if formats.get(op, workload.weights) != "bf16"]
    default = ["accuracy", "kernels", "step"] if quantised else list(SECTIONS)
    return sections.split(",") if sections else default, ops.split(",") if ops else quantised or list(OPS)


def main() -> None:
    """Run the sections asked for inside the budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for gpu_tune.json")
    parser.add_argument("--budget-seconds", type=float, default=480.0)
    parser.add_argument("--sections", help="what to run, a comma list")
    parser.add_argument("--ops", help="kernels to check and sweep, a comma list; those with quantised weights, or all")
    parser.add_argument("--model", default="qwen2.5-7b")
    parser.add_argument("--weights", default="bf16", choices=FORMATS)
    parser.add_argument("--head", choices=FORMATS, help="format of the output head; bf16 unless given")
    options = parser.parse_args()
    workload = Workload.of(CONTEXT, weights=options.weights, head=options.head)
    wanted, ops = choices(workload, options.sections, options.ops)
    if unknown := set(wanted) - set(SECTIONS):
        parser.error(f"unknown sections {sorted(unknown)}; allowed: {', '.join(SECTIONS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    study = Study(options.out, options.budget_seconds, options.model, ops, workload)
    study.say(json.dumps(study.results["device"]))
    # Fractions need a ceiling, so without its section it is still measured, in one shape.
    shapes = ceiling_shapes() if "ceiling" in wanted else [CEILING_SHAPE]
    section(study, "ceiling", lambda: measure_ceiling(study, shapes))
    if study.formats != ("bf16", "bf16"):
        swept = [op for op in study.ops if study.format(op) != "bf16"] if "kernels" in wanted else []
        section(study, "compile", lambda: compile_ahead(study, swept))
    work = {
        "accuracy": lambda: check_accuracy(study, "default", study.shapes),
        "kernels": lambda: study_kernels(study),
        "step": lambda: time_step(study),
    }
    for name in SECTIONS[1:]:
        if name in wanted:
            torch.cuda.empty_cache()
            section(study, name, work[name])
    study.say("done")


if __name__ == "__main__":
    main()
