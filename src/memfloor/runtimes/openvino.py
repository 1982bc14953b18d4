"""OpenVINO on the CPU: a stateful model whose weights NNCF compressed, one inference per step."""

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from memfloor.engine.cpu.native import allowed_cpus
from memfloor.engine.rope import rope_reason
from memfloor.errors import UsageError
from memfloor.floor import projections
from memfloor.record import Cell, ObservedPath
from memfloor.runtimes.library import first_missing
from memfloor.runtimes.memory import require_memory
from memfloor.runtimes.one_call import OneCallRuntime
from memfloor.runtimes.openvino_weights import COMPRESSIONS, build_model
from memfloor.runtimes.protocol import DecodeRequest
from memfloor.spec import check_context, unquantized

if TYPE_CHECKING:
    import openvino

LIBRARIES = ("openvino", "nncf")
# Releases whose states and runtime graph were tried.
FIRST_RELEASE, BEYOND_RELEASE = (2026, 4), (2026, 5)
PRECISIONS = {"bf16": "bf16", "fp16": "f16", "fp32": "f32"}
RECORDED = (
    "INFERENCE_PRECISION_HINT",
    "KV_CACHE_PRECISION",
    "INFERENCE_NUM_THREADS",
    "NUM_STREAMS",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE",
)
# Nodes that run nothing.
NO_KERNELS = ("Const", "Input", "Output")
PREFILL_CHUNK_TOKENS = 512


class OpenVino(OneCallRuntime):
    """Decode at batch 1 with OpenVINO's CPU plugin, its KV cache in states of the model.

    The plugin is what OpenVINO GenAI runs too. Its pipeline needs a tokenizer and picks tokens itself: it is left out.
    """

    name: ClassVar[str] = "openvino"
    summary: ClassVar[str] = "OpenVINO on the CPU: bf16, fp16 or fp32, or NNCF's int8 and int4 weights"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, request: DecodeRequest) -> None:
        self.request = request
        self._start()
        self.compiled: openvino.CompiledModel | None = None
        self._infer: openvino.InferRequest | None = None
        self._filled: list[openvino.Tensor] | None = None
        self._logits = np.empty(0, np.float32)

    @classmethod
    def unavailable_reason(cls, cell: Cell | None = None) -> str | None:
        """Say why OpenVINO cannot run here, or not this cell."""
        missing = first_missing(LIBRARIES)
        if missing:
            return f"{missing} is not installed; pip install 'memfloor[openvino]'"
        release = tuple(map(int, version("openvino").split(".")[:2]))
        if not FIRST_RELEASE <= release < BEYOND_RELEASE:
            return f"openvino {version('openvino')} was not tried; pip install 'memfloor[openvino]' brings one that was"
        return None if cell is None else cell_reason(cell) or _machine_reason(cell)

    def prepare(self) -> None:
        """Build the model, compile it, and fill its states up to `start_len` tokens."""
        import openvino

        cell = self.request.cell
        require_memory(cell)
        check_context(cell.spec, self.request.start_len + self.request.max_steps)
        model = build_model(cell, self.request.seed)
        self.compiled = openvino.Core().compile_model(model, "CPU", _settings(cell))
        self._infer = self.compiled.create_infer_request()
        self._fill_cache()

    def step(self) -> None:
        """Feed the last token and choose the most likely next one."""
        self._feed(np.array([[self.token]], np.int64))
        self.token = int(self._logits.argmax())

    def rewind(self) -> None:
        """Write the states as they were filled, for a state cannot be cut; the first time they are filled again."""
        infer = self._prepared()
        infer.reset_state()
        if self._filled is None:
            self._start()
            self._fill_cache()
            self._filled = [state.state for state in infer.query_state()] if self.request.start_len else []
        else:
            for state, filled in zip(infer.query_state(), self._filled, strict=False):
                state.state = filled
        self._start()

    def _start(self) -> None:
        self.token, self.position = self.request.first_token, self.request.start_len

    @classmethod
    def passes_over_prompts(cls, cell: Cell) -> bool:
        """Tell that the model takes a prompt in chunks."""
        return True

    def prefill(self) -> None:
        """Empty the states, take the prompt in chunks, and feed the first token again."""
        self._prepared().reset_state()
        self._prefill()
        self._start()

    def last_logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, [V]."""
        return self._logits

    def observed_path(self) -> ObservedPath:
        """Take one more step and count the kernels of the compiled graph."""
        self.step()
        assert self.compiled is not None
        kernels = count_kernels(self.compiled)
        path = taken_path(kernels, self.request.cell.workload.weights)
        return ObservedPath(operators=kernels, facts=self._facts() | {"path": path})

    def cached_len(self) -> int:
        """Return the number of tokens in the KV cache."""
        return int(self._prepared().query_state()[0].state.shape[2])

    def _feed(self, tokens: NDArray[np.int64]) -> None:
        infer, end = self._prepared(), self.position + tokens.shape[1]
        feed = {
            "input_ids": tokens,
            "position_ids": np.arange(self.position, end)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        infer.infer(feed, share_inputs=True, share_outputs=True)
        self._logits = infer.get_output_tensor(0).data[0, -1]
        self.position = end

    def _fill_cache(self) -> None:
        if self.request.cell.prefill and self.request.start_len:
            self._prefill()
        elif self.request.start_len:
            self._write_states()

    def _prefill(self) -> None:
        self.position = 0
        prompt = self.request.prompt()
        for start in range(0, self.request.start_len, PREFILL_CHUNK_TOKENS):
            self._feed(prompt[:, start : start + PREFILL_CHUNK_TOKENS])

    def _write_states(self) -> None:
        import openvino

        spec = self.request.cell.spec
        shape = (1, spec.num_key_value_heads, self.request.start_len, spec.head_dim)
        for index, state in enumerate(self._prepared().query_state()):
            numbers = np.random.default_rng([self.request.seed, index]).standard_normal(shape, np.float32)
            state.state = openvino.Tensor(numbers)

    def _facts(self) -> dict[str, str]:
        assert self.compiled is not None
        settings = {name.lower(): _text(self.compiled.get_property(name)) for name in RECORDED}
        fill = "prefill of random tokens" if self.request.cell.prefill else "random keys and values, written as states"
        return settings | {
            "launch": "one inference per step, greedy",
            "openvino": version("openvino"),
            "nncf": version("nncf"),
            "cache_fill": fill if self.request.start_len else "empty",
        }

    def _prepared(self) -> "openvino.InferRequest":
        if self._infer is None:
            raise UsageError("prepare the runtime before its first step")
        return self._infer


def cell_reason(cell: Cell) -> str | None:
    """Say why OpenVINO has no path for a cell; None if it has one."""
    weights, head, kv = cell.workload.weights, cell.workload.head, cell.workload.kv
    kept = COMPRESSIONS[weights].head if weights in COMPRESSIONS else weights
    known = [*PRECISIONS, *COMPRESSIONS]
    refused = {
        f"openvino runs on a cpu here, not on {cell.device}": cell.device != "cpu",
        f"batch {cell.workload.batch} is not 1": cell.workload.batch != 1,
        f"openvino runs weights {', '.join(known)}, not {weights}": weights not in known,
        f"openvino keeps the head of weights {weights} in {kept}, not {head}; --head {kept}": head != kept,
        f"openvino keeps the KV cache in {', '.join(PRECISIONS)}, not {kv}": kv not in PRECISIONS,
        "openvino caches the whole context of sliding-window attention": cell.spec.num_sliding_layers > 0,
    }
    reason = next((reason for reason, holds in refused.items() if holds), None)
    return reason or _group_reason(cell) or rope_reason(cell.spec)


def _group_reason(cell: Cell) -> str | None:
    group = COMPRESSIONS[cell.workload.weights].group_size if cell.workload.weights in COMPRESSIONS else None
    columns = sorted({shape[1] for shape in projections(cell.spec).values()})
    if group and any(count % group for count in columns):
        return f"matrices of {', '.join(map(str, columns))} columns: not all are multiples of {group}"
    return None


def _machine_reason(cell: Cell) -> str | None:
    import openvino

    # What the processor lacks the plugin emulates or replaces.
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    asked = {unquantized(cell.workload.weights), cell.workload.kv} - {"fp32"}
    missing = sorted(name for name in asked if name.upper() not in capabilities)
    return f"this processor has no {missing[0]} for OpenVINO" if missing else None


def _settings(cell: Cell) -> dict[str, str | int]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": len(allowed_cpus(cell.threads)),
        "INFERENCE_PRECISION_HINT": PRECISIONS[unquantized(cell.workload.weights)],
        "KV_CACHE_PRECISION": PRECISIONS[cell.workload.kv],
    }


def _text(value: object) -> str:
    # A type says its name, such as bf16, by a method.
    return str(value.to_string()) if hasattr(value, "to_string") else str(value)


def count_kernels(compiled: "openvino.CompiledModel") -> dict[str, int]:
    """Return how often the compiled graph holds each kind of node, with the kernel and the type chosen for it.

    The type of a FullyConnected node is that of the weights it reads.
    """
    counts: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info, fields = node.get_rt_info(), ("layerType", "primitiveType", "runtimePrecision")
        kind, kernel, precision = (str(info[field].astype(str)) for field in fields)
        if kind not in NO_KERNELS:
            counts[f"{kind} {kernel} {precision}"] += 1
    return dict(sorted(counts.items()))


def taken_path(kernels: Mapping[str, int], weights: str) -> str:
    """Say whether every matrix was read in the format asked for, by the types that its nodes read."""
    read = {name.rpartition(" ")[2] for name in kernels if name.startswith("FullyConnected")}
    asked = set(COMPRESSIONS[weights].reads) if weights in COMPRESSIONS else {PRECISIONS[weights]}
    if read == asked:
        return f"matrices read as {', '.join(sorted(read))}"
    return f"NOT AS ASKED: matrices read as {', '.join(sorted(read))}, not {', '.join(sorted(asked))}"
