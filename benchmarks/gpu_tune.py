"""Check and tune the engine's kernels on this machine's GPU: ceiling, kernels, whole step.

Prints its progress and writes everything it measured to DIR/gpu_tune.json, section by section:
`ceiling` (read-only bandwidth over launch shapes), `checks` (each kernel against its reference), `sweep` (launch
shapes of each kernel inside a graph over distinct weights), `step` (the whole step: bits, accuracy, time).
"""

import argparse
import itertools
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import triton

from memfloor.engine.cuda import calls
from memfloor.engine.cuda.calls import KernelCall
from memfloor.engine.cuda.kv_cache import fill_cache
from memfloor.engine.cuda.launch_shapes import AttentionShape, LaunchShapes, ProjectionShape, RowShape, default_shapes
from memfloor.engine.cuda.model import DecodeModel
from memfloor.engine.cuda.weights import random_weights
from memfloor.engine.decode import Decoder
from memfloor.engine.kernels.attention import reference as attention_reference
from memfloor.engine.kernels.dependency import MODES
from memfloor.engine.kernels.gate_up.reference import gate_up
from memfloor.engine.kernels.head.reference import head
from memfloor.engine.kernels.projection.reference import projection
from memfloor.engine.kernels.qkv.reference import qkv
from memfloor.engine.kernels.stream.reference import stream
from memfloor.engine.reference import reference_logits
from memfloor.engine.rope import rope_table
from memfloor.floor import step_traffic
from memfloor.spec import Workload, load_model

CONTEXT = 2048
MAX_LEN = 2560
EPS = 1e-6
BF16, F32, I32 = torch.bfloat16, torch.float32, torch.int32
OPS = ("qkv", "attention", "o_proj", "gate_up", "down_proj", "head")

Shape = RowShape | ProjectionShape | AttentionShape


class Study:
    """Hold what all sections share: the model, the budget, the results and the ceiling found so far."""

    def __init__(self, out: Path, budget_seconds: float, model: str, ops: list[str]) -> None:
        self.out, self.deadline, self.begun = out, time.monotonic() + budget_seconds, time.monotonic()
        self.spec, self.ops = load_model(model), ops
        self.device = torch.device("cuda")
        self.properties = torch.cuda.get_device_properties(self.device)
        self.sms = self.properties.multi_processor_count
        self.pdl = MODES["preload"] if self.properties.major >= 9 else MODES["off"]
        self.results: dict[str, Any] = {"device": describe_device(self.properties), "model": self.spec.name}
        self.ceiling = float("nan")
        self.shapes = default_shapes(self.spec.hidden_size, self.spec.num_key_value_heads, self.sms)
        self.ranked: dict[str, list[tuple[float, Shape]]] = {}

    def remaining(self) -> float:
        """Return the seconds left of the budget."""
        return self.deadline - time.monotonic()

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        print(f"[{time.monotonic() - self.begun:5.0f}s] {text}", flush=True)

    def save(self) -> None:
        """Write the results so far."""
        (self.out / "gpu_tune.json").write_text(json.dumps(self.results, indent=1, default=str))


def describe_device(properties: Any) -> dict[str, Any]:
    return {
        "name": properties.name,
        "sms": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "capability": f"{properties.major}.{properties.minor}",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
    }


def numbers(*shape: int, dtype: torch.dtype = BF16, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, device="cuda") * scale).to(dtype)


def zeros(size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(size, dtype=dtype, device="cuda")


def seconds_per_work(chain: list[list[KernelCall]], replays: int = 7) -> float:
    """Return the median time of the launches of one link of a chain, replayed as a graph; compiles it first."""
    return graph_seconds([lambda link=link: issue(link) for link in chain], replays)


def issue(launches: list[KernelCall]) -> None:
    for launch in launches:
        launch.issue()


def graph_seconds(works: list[Callable[[], object]], replays: int) -> float:
    """Return the median time of one of some works of the same kind, captured together."""
    works[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for work in works:
            work()
    return median_seconds(graph.replay, replays) / len(works)


def median_seconds(work: Callable[[], object], times: int) -> float:
    """Return the median time of `work` between events on the stream, after one time unmeasured."""
    work()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(marks)) / 1e3


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    want = want.float()
    return float((got.float() - want).norm() / want.norm())


# Ceiling ------------------------------------------------------------------------------------------------------


def measure_ceiling(study: Study) -> None:
    """Sweep the launch shape of the read-only kernel; a torch copy stands beside it."""
    source = torch.randint(-(2**30), 2**30, (1 << 30,), dtype=I32, device="cuda")
    rows = []
    truth = stream(source)
    for block, unroll, warps, per_sm in ceiling_shapes():
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


def ceiling_shapes() -> Iterator[tuple[int, int, int, int]]:
    for warps in (4, 8):
        for unroll in (1, 2, 4, 8):
            for per_sm in (2, 4, 8, 0) if warps == 8 else (4, 8, 16, 0):
                yield warps * 128 * 2, unroll, warps, per_sm


# Kernels ------------------------------------------------------------------------------------------------------


class Bench:
    """Build calls of each kernel at the model's true shape over chosen weights."""

    def __init__(self, study: Study, pool: torch.Tensor) -> None:
        spec = study.spec
        self.spec, self.sms, self.pool = spec, study.sms, pool
        self.query = spec.num_attention_heads * spec.head_dim
        self.qkv_rows = self.query + 2 * spec.num_key_value_heads * spec.head_dim
        hidden, inner = spec.hidden_size, spec.intermediate_size
        self.shapes = {
            "qkv": (self.qkv_rows, hidden),
            "o_proj": (hidden, self.query),
            "gate_up": (2, inner, hidden),
            "down_proj": (hidden, inner),
            "head": (spec.vocab_size, hidden),
            "attention": (2, spec.num_key_value_heads, MAX_LEN, spec.head_dim),
        }
        self.x = numbers(max(hidden, inner, self.query))
        self.sums = torch.rand(448, device="cuda") * 2 * hidden / 448
        self.bias = numbers(self.qkv_rows, scale=0.1)
        self.norm_weight = numbers(hidden, scale=0.1) + 1
        self.heads = numbers(self.qkv_rows, dtype=F32)
        # Scores of about one standard deviation, over a cache of small numbers.
        self.heads[: self.query] *= 50
        self.heads[self.query :] *= 0.02
        self.position = torch.tensor([CONTEXT], dtype=I32, device="cuda")
        self.rope = rope_table(spec, MAX_LEN, torch.device("cuda"))
        cos, sin = (table[CONTEXT] for table in self.rope)
        self.rope_row = torch.cat([cos, cos, -sin, sin])

    def bytes(self, op: str) -> int:
        """Return what one launch must read."""
        if op == "attention":
            return 2 * self.spec.num_key_value_heads * CONTEXT * self.spec.head_dim * 2
        return 2 * int(torch.Size(self.shapes[op]).numel())

    def weights(self, op: str, index: int) -> torch.Tensor:
        """Return the index-th weights of an operation in the pool; they repeat only after the whole pool."""
        size = torch.Size(self.shapes[op]).numel()
        slot = index % (self.pool.numel() // size)
        return self.pool[slot * size : (slot + 1) * size].view(self.shapes[op])

    def chain(self, op: str, shape: Shape, pdl: int) -> list[list[KernelCall]]:
        """Return enough launches over distinct weights that the caches and the replay itself do not count."""
        count = min(112, max(8, int(1.5e9 / self.bytes(op))))
        outputs = self.outputs(op, shape)
        return [self.call(op, self.weights(op, i), outputs, shape, pdl) for i in range(count)]

    def outputs(self, op: str, shape: Shape) -> tuple[torch.Tensor, ...]:
        hidden, inner = self.spec.hidden_size, self.spec.intermediate_size
        if isinstance(shape, AttentionShape):
            rows = self.spec.num_attention_heads * shape.splits(MAX_LEN)
            scratch = zeros(rows * self.spec.head_dim, F32), zeros(rows, F32), zeros(rows, F32)
            return (zeros(self.query, BF16), *scratch)
        if isinstance(shape, ProjectionShape):
            tiles = -(-hidden // shape.block_n)
            partial = zeros(hidden * shape.splits(self.shapes[op][1]), F32)
            return zeros(hidden, F32), zeros(hidden, BF16), zeros(tiles, F32), partial, zeros(tiles, I32)
        programs = shape.programs(self.spec.vocab_size)
        by_op = {
            "qkv": lambda: (zeros(self.qkv_rows, F32),),
            "gate_up": lambda: (zeros(inner, BF16),),
            "head": lambda: (zeros(self.spec.vocab_size, F32), zeros(programs, F32), zeros(programs, I32)),
        }
        return by_op[op]()

    def call(self, op: str, w: torch.Tensor, out: tuple[torch.Tensor, ...], shape: Any, pdl: int) -> list[KernelCall]:
        hidden = self.spec.hidden_size
        rows = {"eps": EPS, "shape": shape, "pdl": pdl}
        if op == "qkv":
            return [calls.qkv_call(self.x[:hidden], self.sums, w, self.bias, *out, **rows)]
        if op == "gate_up":
            return [calls.gate_up_call(self.x[:hidden], self.sums, w, *out, **rows)]
        if op == "head":
            return [calls.head_call(self.x[:hidden], self.sums, w, *out, **rows)]
        if op == "attention":
            options = {"eps": EPS, "shape": shape, "pdl": pdl}
            return calls.attention_calls(
                self.heads, self.position, self.rope_row, None, w, out[0], out[1:], self.pool, **options
            )
        x = self.x[: w.shape[1]]
        rest = {"shape": shape, "pdl": pdl}
        return [calls.projection_call(x, w, None, *out[:1], self.norm_weight, *out[1:], **rest)]

    def torch_seconds(self, op: str) -> float:
        """Return the time of torch's own product of the same weights and a vector, without norm or epilogue."""
        count = min(112, max(8, int(1.5e9 / self.bytes(op))))
        weights = [self.weights(op, i).flatten(0, -2) for i in range(count)]
        x, out = self.x[: weights[0].shape[1]], zeros(weights[0].shape[0], BF16)
        return graph_seconds([lambda w=w: torch.mv(w, x, out=out) for w in weights], 7)

    def truth(self, op: str, w: torch.Tensor) -> torch.Tensor:
        hidden = self.spec.hidden_size
        if op == "attention":
            out, _, _ = attention_reference.attention(self.heads, CONTEXT, *self.rope, w[0], w[1], None, EPS)
            return out.flatten()
        if op in ("o_proj", "down_proj"):
            return projection(self.x[: w.shape[1]], w, None, torch.zeros(hidden, device="cuda"), self.norm_weight)[0]
        if op == "qkv":
            return qkv(self.x[:hidden], self.sums, w, self.bias, EPS)
        return {"gate_up": gate_up, "head": head}[op](self.x[:hidden], self.sums, w, EPS)


def study_kernels(study: Study) -> None:
    """Check and sweep every kernel over one pool of random weights."""
    bench = Bench(study, torch.empty(3 << 30, dtype=BF16, device="cuda").normal_(std=0.02))
    section(study, "checks", lambda: check_kernels(study, bench))
    section(study, "sweep", lambda: sweep_kernels(study, bench))


def check_kernels(study: Study, bench: Bench) -> None:
    """Compare every kernel with its reference in every mode, three times each: tickets must reset themselves."""
    study.results["checks"] = {}
    for op in OPS:
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
    if op == "o_proj":
        cuts = [(4, 4096, 1, 4), (2, 4096, 1, 4), (2, 4096, 1, 2), (8, 4096, 1, 8), (4, 4096, 1, 8), (4, 2048, 1, 4)]
        cuts += [(4, 2048, 1, 2), (8, 2048, 1, 4), (8, 2048, 1, 8), (16, 1024, 1, 4), (8, 1024, 1, 4), (2, 2048, 1, 2)]
        cuts += [(8, 512, 4, 4), (4, 1024, 4, 4), (4, 512, 7, 2), (2, 512, 7, 2), (8, 512, 7, 4)]
        return [ProjectionShape(*cut) for cut in cuts]
    if op == "down_proj":
        cuts = [(8, 4096, 1, 8), (4, 4096, 1, 4), (4, 4096, 1, 8), (8, 2048, 1, 4), (8, 2048, 1, 8), (16, 2048, 1, 8)]
        cuts += [(16, 1024, 1, 4), (4, 2048, 2, 4), (8, 2048, 2, 8), (4, 2048, 5, 4), (8, 1024, 4, 4), (8, 1024, 5, 4)]
        cuts += [
            (4, 1024, 5, 4),
            (4, 2048, 10, 8),
            (8, 2048, 10, 8),
            (4, 4096, 5, 8),
            (2, 4096, 5, 8),
            (2, 2048, 10, 8),
        ]
        cuts += [(4, 512, 37, 2), (2, 1024, 19, 4), (2, 4096, 1, 4)]
        cuts += [(8, 2048, 3, 8), (8, 2048, 5, 8), (16, 1024, 3, 8), (16, 1024, 5, 8), (4, 2048, 3, 4), (4, 2048, 3, 8)]
        cuts += [(4, 2048, 2, 8), (4, 2048, 5, 8), (2, 2048, 5, 4), (2, 4096, 3, 8), (4, 1024, 10, 8), (8, 1024, 10, 8)]
        cuts += [
            (8, 512, 10, 4),
            (8, 512, 19, 8),
            (16, 512, 10, 8),
            (8, 1024, 4, 8),
            (8, 1024, 3, 4),
            (16, 2048, 2, 16),
        ]
        return [ProjectionShape(*cut) for cut in cuts]
    halves = 2 if op == "gate_up" else 1
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
    for shape in [getattr(study.shapes, op), *candidates(op)]:
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
    if op != "attention":
        ladder["torch.mv"] = bench.torch_seconds(op)
    rungs = ", ".join(f"{mode} {seconds * 1e6:.2f} us" for mode, seconds in ladder.items())
    study.say(f"BEST {op:10s} {short(best)}: {rungs}; at the ceiling {floor / study.ceiling * 1e6:.2f} us")


def short(shape: Shape) -> str:
    return type(shape).__name__ + str(tuple(asdict(shape).values()))


# Whole step ---------------------------------------------------------------------------------------------------


def check_accuracy(study: Study, shapes: LaunchShapes) -> None:
    """Compare the logits of a two-layer cut of the model with float32, in every mode."""
    spec = study.spec.model_copy(update={"num_hidden_layers": 2})
    weights = random_weights(spec, study.device, seed=1)
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
        study.say(f"two layers {mode}: logits relative error {error:.2e}, same token {same}")
        study.results.setdefault("accuracy", {})[mode] = error


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
    """Build whole models that share one set of weights and one cache."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.weights = random_weights(study.spec, study.device, seed=1)
        self.cache: torch.Tensor | None = None
        traffic = step_traffic(study.spec, Workload.of(CONTEXT))
        self.floor_bytes = traffic.total_bytes

    def decoder(self, shapes: LaunchShapes, pdl: int, launch: str = "graph", steps: int = 1) -> Decoder:
        """Return a decoder; only the first one fills the cache."""
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


def check_bits(study: Study, step: Step, shapes: LaunchShapes) -> None:
    """Require the same bits from eager, graph, several steps per replay and every mode of overlap."""
    want = decode_bits(step.decoder(shapes, MODES["off"], "eager"), 32)
    study.say(f"eager, no overlap: tokens {want[0][:10]} finite {bool(torch.isfinite(want[1]).all())}")
    for mode, pdl in MODES.items():
        for launch, steps in (("eager", 1), ("graph", 1), ("graph", 8)):
            if pdl > study.pdl or (pdl == 0 and launch == "eager") or study.remaining() < 45:
                continue
            got = decode_bits(step.decoder(shapes, pdl, launch, steps), 32)
            study.say(f"bits {mode:8s} {launch} x{steps}: {'equal' if same_bits(got, want) else 'DIFFERENT'}")
            study.results.setdefault("bits", {})[f"{mode} {launch} x{steps}"] = same_bits(got, want)


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
    check_bits(study, step, shapes)


def section(study: Study, name: str, work: Callable[[], object]) -> None:
    """Run a section; a failure is printed and does not stop the next."""
    study.say(f"== {name} ({study.remaining():.0f} s left)")
    try:
        work()
    except Exception:  # noqa: BLE001
        study.say(f"{name} FAILED")
        print(traceback.format_exc()[-3000:], flush=True)
        study.results.setdefault("failures", {})[name] = traceback.format_exc()
    study.save()


def main() -> None:
    """Run all sections inside the budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory for gpu_tune.json")
    parser.add_argument("--budget-seconds", type=float, default=480.0)
    parser.add_argument("--ops", default=",".join(OPS), help="kernels to sweep, a comma list")
    parser.add_argument("--model", default="qwen2.5-7b")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    study = Study(options.out, options.budget_seconds, options.model, options.ops.split(","))
    study.say(json.dumps(study.results["device"]))
    section(study, "ceiling", lambda: measure_ceiling(study))
    torch.cuda.empty_cache()
    section(study, "accuracy", lambda: check_accuracy(study, study.shapes))
    section(study, "kernels", lambda: study_kernels(study))
    torch.cuda.empty_cache()
    section(study, "step", lambda: time_step(study))
    study.say("done")


if __name__ == "__main__":
    main()
