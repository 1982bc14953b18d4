"""What every section of gpu_tune.py shares: the study, times of captured launches, and calls of each kernel."""

import itertools
import json
import math
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import triton

from memfloor.engine.cuda import calls
from memfloor.engine.cuda.calls import Heads, KernelCall
from memfloor.engine.cuda.launch_shapes import AttentionShape, ProjectionShape, RowShape, default_shapes
from memfloor.engine.cuda.matrix import Matrix, PackedMatrix, dequantize, quantize
from memfloor.engine.cuda.model import device_rope
from memfloor.engine.kernels.attention import reference as attention_reference
from memfloor.engine.kernels.dependency import MODES
from memfloor.engine.kernels.gate_up.reference import gate_up
from memfloor.engine.kernels.head.reference import head
from memfloor.engine.kernels.projection.reference import projection
from memfloor.engine.kernels.qkv.reference import qkv, turned
from memfloor.spec import Workload, load_model, weight_format

CONTEXT = 2048
MAX_LEN = 2560
EPS = 1e-6
BF16, F32, I32 = torch.bfloat16, torch.float32, torch.int32
OPS = ("qkv", "attention", "o_proj", "gate_up", "down_proj", "head")

Shape = RowShape | ProjectionShape | AttentionShape


class Study:
    """Hold what all sections share: the model, the budget, the results and the ceiling found so far."""

    def __init__(self, out: Path, budget_seconds: float, model: str, ops: list[str], workload: Workload) -> None:
        self.out, self.deadline, self.begun = out, time.monotonic() + budget_seconds, time.monotonic()
        self.spec, self.ops = load_model(model), ops
        self.workload, self.formats = workload, (workload.weights, workload.head)
        self.device = torch.device("cuda")
        self.properties = torch.cuda.get_device_properties(self.device)
        self.sms = self.properties.multi_processor_count
        self.pdl = MODES["preload"] if self.properties.major >= 9 else MODES["off"]
        self.results: dict[str, Any] = {"device": describe_device(self.properties), "model": self.spec.name}
        self.results["weights"], self.results["head"] = self.formats
        self.ceiling = float("nan")
        self.shapes = default_shapes(self.spec, self.sms, *self.formats)
        self.ranked: dict[str, list[tuple[float, Shape]]] = {}

    def format(self, op: str) -> str:
        """Return the format of an operation's weights."""
        weights, head = self.formats
        return {"attention": "bf16", "head": head}.get(op, weights)

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


def short(shape: Shape) -> str:
    return type(shape).__name__ + str(tuple(asdict(shape).values()))


class Bench:
    """Build calls of each kernel at the model's true shape over chosen weights."""

    def __init__(self, study: Study) -> None:
        spec = study.spec
        self.spec, self.sms, self.format = spec, study.sms, study.format
        self.packed: dict[str, list[PackedMatrix]] = {}
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
        # As many as the down projection leaves.
        tiles = -(-hidden // study.shapes.down_proj.block_n)
        self.sums = torch.rand(tiles, device="cuda") * 2 * hidden / tiles
        self.bias = numbers(self.qkv_rows, scale=0.1)
        self.norm_weight = numbers(hidden, scale=0.1) + 1
        raw = numbers(self.qkv_rows, dtype=F32)
        # Scores of about one standard deviation, over a cache of small numbers.
        raw[: self.query] *= 50
        raw[self.query :] *= 0.02
        self.raw = raw
        self.position = torch.tensor([CONTEXT], dtype=I32, device="cuda")
        self.rope = device_rope(spec, MAX_LEN, torch.device("cuda"))
        cos, sin = (table[CONTEXT] for table in self.rope)
        self.rope_row = torch.cat([cos, sin])
        self.heads = Heads(self.turn(raw), None, spec.num_key_value_heads, spec.head_dim)

    def turn(self, raw: torch.Tensor) -> torch.Tensor:
        """Return raw heads as the QKV kernel leaves them."""
        spec, (cos, sin) = self.spec, self.rope_row.chunk(2)
        return turned(raw, spec.num_key_value_heads, cos, sin, None, math.log2(math.e) / spec.head_dim**0.5)[0]

    @cached_property
    def pool(self) -> torch.Tensor:
        """Return the numbers that bf16 weights and caches are cut from."""
        return torch.empty(3 << 30, dtype=BF16, device="cuda").normal_(std=0.02)

    def bytes(self, op: str) -> int:
        """Return what one launch must read."""
        if op == "attention":
            return 2 * self.spec.num_key_value_heads * CONTEXT * self.spec.head_dim * 2
        form, columns = weight_format(self.format(op)), self.shapes[op][-1]
        rows = torch.Size(self.shapes[op]).numel() // columns
        return form.weight_bytes(rows, columns) + form.scales_bytes(rows, columns)

    def weights(self, op: str, index: int) -> Matrix:
        """Return the index-th weights of an operation in the pool; they repeat only after the whole pool."""
        if self.format(op) != "bf16":
            return self.packed_weights(op, index)
        size = torch.Size(self.shapes[op]).numel()
        slot = index % (self.pool.numel() // size)
        return self.pool[slot * size : (slot + 1) * size].view(self.shapes[op])

    def packed_weights(self, op: str, index: int) -> PackedMatrix:
        """Return the index-th of copies of one packed matrix, 2 GB together: far more than a cache holds."""
        if op not in self.packed:
            matrix = quantize(numbers(*self.shapes[op], scale=0.02), self.format(op))
            copies = range(1, max(2, int(2e9 / self.bytes(op))))
            clones = [PackedMatrix(matrix.words.clone(), matrix.format, matrix.shape) for _ in copies]
            self.packed[op] = [matrix, *clones]
        return self.packed[op][index % len(self.packed[op])]

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

    def call(self, op: str, w: Matrix, out: tuple[torch.Tensor, ...], shape: Any, pdl: int) -> list[KernelCall]:
        hidden = self.spec.hidden_size
        rows = {"eps": EPS, "shape": shape, "pdl": pdl}
        if op == "qkv":
            heads = Heads(out[0], None, self.heads.kv_heads, self.heads.head_dim)
            return [calls.qkv_call(self.x[:hidden], self.sums, w, self.bias, None, self.rope_row, heads, **rows)]
        if op == "gate_up":
            return [calls.gate_up_call(self.x[:hidden], self.sums, w, *out, **rows)]
        if op == "head":
            return [calls.head_call(self.x[:hidden], self.sums, w, *out, **rows)]
        if op == "attention":
            options = {"eps": EPS, "shape": shape, "pdl": pdl}
            return calls.attention_calls(self.heads, self.position, w, out[0], out[1:], **options)
        x = self.x[: w.shape[1]]
        rest = {"shape": shape, "pdl": pdl}
        return [calls.projection_call(x, w, None, *out[:1], self.norm_weight, *out[1:], **rest)]

    def torch_seconds(self, op: str) -> float:
        """Return the time of torch's own product of the same weights and a vector, without norm or epilogue."""
        count = min(112, max(8, int(1.5e9 / self.bytes(op))))
        weights = [self.weights(op, i).flatten(0, -2) for i in range(count)]
        x, out = self.x[: weights[0].shape[1]], zeros(weights[0].shape[0], BF16)
        return graph_seconds([lambda w=w: torch.mv(w, x, out=out) for w in weights], 7)

    def truth(self, op: str, matrix: Matrix) -> torch.Tensor:
        hidden = self.spec.hidden_size
        w = dequantize(matrix).view(self.shapes[op])
        if op == "attention":
            out, _, _ = attention_reference.attention(self.raw, CONTEXT, *self.rope, w[0], w[1], None, EPS)
            return out.flatten()
        if op in ("o_proj", "down_proj"):
            return projection(self.x[: w.shape[1]], w, None, torch.zeros(hidden, device="cuda"), self.norm_weight)[0]
        if op == "qkv":
            return self.turn(qkv(self.x[:hidden], self.sums, w, self.bias, EPS))
        return {"gate_up": gate_up, "head": head}[op](self.x[:hidden], self.sums, w, EPS)
