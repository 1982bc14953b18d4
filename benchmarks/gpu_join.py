"""Who joins attention's splits: a launch of its own before the O projection, or the O projection itself?

Each way is checked against its reference, timed per layer in a chain over distinct weights and caches (attention, join
and O projection together), and compared in whole steps, whose repetitions are interleaved.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from gpu_bench import BF16, CONTEXT, EPS, F32, I32, MAX_LEN, Bench, Study, issue, relative_error, section, short, zeros
from gpu_bench import seconds_per_work as seconds_per_link
from gpu_steps import Step, check_accuracy, check_bits, step_seconds

from memfloor.engine.cuda import calls
from memfloor.engine.cuda.calls import KernelCall
from memfloor.engine.cuda.launch_shapes import AttentionShape, CombineProjectionShape, LaunchShapes, ProjectionShape
from memfloor.engine.kernels.attention.reference import attention as attention_reference
from memfloor.engine.kernels.combine_projection.reference import combine_projection
from memfloor.engine.kernels.dependency import MODES
from memfloor.engine.kernels.projection.reference import projection

OProjection = ProjectionShape | CombineProjectionShape
# The rows of a chain: seconds per layer and the two shapes.
Row = tuple[float, AttentionShape, OProjection]

# The first holds one block per program. The second does the same work, but is compiled as if programs had two. The last
# two leave fewer partials to join.
ATTENTIONS = (
    AttentionShape(64, 66, 4),
    AttentionShape(64, -(-MAX_LEN // 64) - 1, 4),
    AttentionShape(64, 66, 8),
    AttentionShape(128, 66, 8),
    AttentionShape(64, 17, 8),
)
SEPARATE = (ProjectionShape(4, 1024, 4, 4), ProjectionShape(4, 4096, 1, 4), ProjectionShape(4, 4096, 1, 8))
JOINED = tuple(
    CombineProjectionShape(*cut)
    for cut in (
        (128, 64, 4),
        (256, 64, 8),
        (128, 64, 8),
        (64, 64, 4),
        (128, 128, 4),
        (128, 32, 4),
        (256, 64, 4),
        (256, 32, 8),
        (64, 64, 2),
        (512, 64, 16),
    )
)
# Distinct weights of a chain, and the caches' first place in the pool, beyond all weights.
LINKS, FIRST_CACHE = 112, 600


class Chain:
    """Build attention, join and O projection of one layer over chosen weights and cache."""

    def __init__(self, bench: Bench, attention: AttentionShape, o_proj: OProjection) -> None:
        self.bench, self.attention, self.o_proj = bench, attention, o_proj
        spec, self.splits = bench.spec, attention.splits(MAX_LEN)
        rows = spec.num_attention_heads * self.splits
        self.scratch = zeros(rows * spec.head_dim, F32), zeros(rows, F32), zeros(rows, F32)
        self.attended = zeros(bench.query, BF16)
        tiles = -(-spec.hidden_size // o_proj.block_n)
        joined = isinstance(o_proj, CombineProjectionShape)
        products = spec.num_attention_heads if joined else o_proj.splits(bench.query)
        self.residual = zeros(spec.hidden_size, F32)
        self.outputs = (
            zeros(spec.hidden_size, BF16),
            zeros(tiles, F32),
            zeros(products * spec.hidden_size, F32),
            zeros(tiles, I32),
        )

    def links(self, count: int, pdl: int) -> list[list[KernelCall]]:
        """Return the launches of some layers."""
        return [self.link(index, pdl) for index in range(count)]

    def link(self, index: int, pdl: int) -> list[KernelCall]:
        """Return the launches of one layer, three or two of them."""
        bench, w = self.bench, self.bench.weights("o_proj", index)
        inputs = (bench.heads, bench.position, bench.rope_row, None, self.cache(index))
        attend, combine = calls.attention_calls(
            *inputs, self.attended, self.scratch, eps=EPS, shape=self.attention, pdl=pdl
        )
        rest = (w, None, self.residual, bench.norm_weight, *self.outputs)
        if isinstance(self.o_proj, ProjectionShape):
            return [attend, combine, calls.projection_call(self.attended, *rest, shape=self.o_proj, pdl=pdl)]
        cut = {"attention": self.attention, "max_len": MAX_LEN, "shape": self.o_proj, "pdl": pdl}
        return [attend, calls.combine_projection_call(bench.position, self.scratch, *rest, **cut)]

    def cache(self, index: int) -> torch.Tensor:
        """Return the keys and values of a layer."""
        return self.bench.weights("attention", FIRST_CACHE + index)

    def errors(self, pdl: int) -> tuple[float, float]:
        """Return the worst relative error of three launches, to the layer in float32 and from the same partials."""
        bench, w, cache = self.bench, self.bench.weights("o_proj", 1), self.cache(1)
        attended, _, _ = attention_reference(bench.heads, CONTEXT, *bench.rope, cache[0], cache[1], None, EPS)
        empty = torch.zeros_like(self.residual)
        want, _, _ = projection(attended.flatten(), w, None, empty, bench.norm_weight)
        errors = []
        for _ in range(3):
            self.residual.zero_()
            issue(self.link(1, pdl))
            errors.append((relative_error(self.residual, want), relative_error(self.residual, self.joined(w))))
        return max(error for error, _ in errors), max(error for _, error in errors)

    def joined(self, w: torch.Tensor) -> torch.Tensor:
        """Return the residual that the partials of the last launch give; attention in bf16 does not count."""
        heads = self.bench.spec.num_attention_heads
        partial, maxima, sums = (part.view(heads, self.splits, -1) for part in self.scratch)
        used = min(CONTEXT // self.attention.block_s + 1, self.splits)
        scratch, empty = (partial, maxima[..., 0], sums[..., 0]), torch.zeros_like(self.residual)
        return combine_projection(scratch, used, w, None, empty, self.bench.norm_weight)[0]


def study_join(study: Study) -> None:
    """Check, sweep and compare whole steps; half of what remains after the checks is kept for the steps."""
    study.results["join"] = {}
    chains: list[Row] = []
    section(study, "join chains", lambda: chains.extend(study_chains(study)))
    torch.cuda.empty_cache()
    section(study, "join steps", lambda: compare_steps(study, step_variants(study, chains)))


def study_chains(study: Study) -> list[Row]:
    """Check and time chains over one pool of weights."""
    bench = Bench(study)
    check_modes(study, bench)
    return sweep(study, bench, until=study.remaining() * 0.5)


def check_modes(study: Study, bench: Bench) -> None:
    """Compare the joining projection with its reference in every mode of overlap."""
    chain = Chain(bench, ATTENTIONS[0], JOINED[0])
    for mode, pdl in MODES.items():
        if pdl <= study.pdl:
            layer, join = chain.errors(pdl)
            verdict = "ok" if layer < 1e-2 and join < 1e-5 else "WRONG"
            study.say(f"check {mode:8s} layer {layer:.2e}, from the same partials {join:.2e} {verdict}")
            study.results["join"][f"check {mode}"] = {"layer": layer, "same partials": join, "verdict": verdict}


def sweep(study: Study, bench: Bench, until: float) -> list[Row]:
    """Time both ways: every O projection behind the default attention, the best behind the others."""
    rows: list[Row] = []
    for o_proj in (SEPARATE[0], *JOINED, *SEPARATE[1:]):
        rows += timed(study, bench, ATTENTIONS[0], o_proj, until)
    best = [[row[2] for row in sorted_rows(rows, kind)[:2]] for kind in (CombineProjectionShape, ProjectionShape)]
    for attention in ATTENTIONS[1:]:
        for o_proj in (*best[0], *best[1][:1]):
            rows += timed(study, bench, attention, o_proj, until)
    study.results["join"]["chains"] = [
        {"seconds": seconds, "attention": asdict(attention), "o_proj": short(o_proj)}
        for seconds, attention, o_proj in sorted(rows, key=lambda row: row[0])
    ]
    return rows


def sorted_rows(rows: Sequence[Row], kind: type) -> list[Row]:
    return sorted((row for row in rows if isinstance(row[2], kind)), key=lambda row: row[0])


def timed(study: Study, bench: Bench, attention: AttentionShape, o_proj: OProjection, until: float) -> list[Row]:
    """Return the row of one pair of shapes; none if it fails, is wrong or comes too late."""
    label = f"{short(attention)} {short(o_proj)}"
    if study.remaining() < until:
        study.say(f"  no time left for {label}")
        return []
    chain = Chain(bench, attention, o_proj)
    try:
        layer, _ = chain.errors(study.pdl)
        seconds = seconds_per_link(chain.links(LINKS, study.pdl))
    except Exception as problem:  # noqa: BLE001
        study.say(f"  {label}: {type(problem).__name__} {str(problem)[:100]}")
        return []
    if layer > 1e-2:
        study.say(f"  {label}: WRONG, relative error {layer:.2e}")
        return []
    study.say(f"  {seconds * 1e6:6.2f} us a layer {label}")
    return [(seconds, attention, o_proj)]


def step_variants(study: Study, rows: Sequence[Row]) -> dict[str, LaunchShapes]:
    """Return the default, its old attention kernel, and the best of each way in the chains, the default first."""
    default = study.shapes
    variants = {"default": default, "second block": replace(default, attention=ATTENTIONS[1])}
    for label, kind, count in (("separate", ProjectionShape, 1), ("joined", CombineProjectionShape, 3)):
        for place, (_, attention, o_proj) in enumerate(sorted_rows(rows, kind)[:count], start=1):
            variants[f"{label} {place}"] = replace(default, attention=attention, o_proj=o_proj)
    return variants


def compare_steps(study: Study, variants: dict[str, LaunchShapes], repetitions: int = 5) -> None:
    """Time whole steps, one per replay, in interleaved repetitions; then check the best that joins."""
    step = Step(study)
    decoders = {}
    for label, shapes in variants.items():
        if study.remaining() > 20:
            decoders[label] = step.decoder(shapes, study.pdl)
    medians: dict[str, list[float]] = {label: [] for label in decoders}
    for repetition in range(repetitions):
        for label in random.Random(repetition).sample(list(decoders), len(decoders)):
            medians[label].append(statistics.median(step_seconds(decoders[label], 100)))
    study.results["join"]["steps"] = {
        label: {"shapes": asdict(variants[label]), "median_seconds": times} for label, times in medians.items()
    }
    for label, times in medians.items():
        report_variant(study, step, label, variants[label], times, medians["default"])
    study.save()
    joined = [label for label in decoders if label.startswith("joined")]
    if joined:
        best = min(joined, key=lambda label: statistics.median(medians[label]))
        mode = "preload" if study.pdl else "off"
        check_accuracy(study, best, variants[best], [mode])
        check_bits(study, step, best, variants[best], [mode])


def report_variant(
    study: Study, step: Step, label: str, shapes: LaunchShapes, times: list[float], default: list[float]
) -> None:
    """Print a variant's step and its ratio to the default's, repetition by repetition."""
    median, ratios = statistics.median(times), [mine / other for mine, other in zip(times, default, strict=True)]
    rate = step.floor_bytes / median
    study.say(
        f"STEP {label:14s} {median * 1e6:8.1f} us = {rate / study.ceiling:.4f} of the ceiling; to the default "
        f"{statistics.median(ratios):.4f} [{min(ratios):.4f}, {max(ratios):.4f}] "
        f"{short(shapes.attention)} {short(shapes.o_proj)}"
    )
