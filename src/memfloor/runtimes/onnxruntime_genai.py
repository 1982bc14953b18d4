"""ONNX Runtime GenAI on the CPU: a model from its own builder, one call of its generator per step."""

import contextlib
import io
import json
import logging
import shutil
import weakref
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memfloor.engine.cpu.native import allowed_cpus
from memfloor.errors import UsageError
from memfloor.record import Cell, ObservedPath
from memfloor.runtimes.hf_model import load_model
from memfloor.runtimes.library import first_missing
from memfloor.runtimes.memory import require_memory
from memfloor.runtimes.one_call import OneCallRuntime
from memfloor.runtimes.protocol import DecodeRequest
from memfloor.spec import check_context, unquantized

LIBRARIES = ("onnxruntime_genai", "onnx", "onnx_ir", "torch", "transformers")
# The release whose builder and generator were tried.
RELEASE = (0, 18)
# The builder's name of each weight format; it quantises the head with the other matrices.
PRECISIONS = {"fp32": "fp32", "ort-int8-g32": "int8", "ort-int4-g32": "int4"}
ROPE_TYPES = ("default", "llama3")


class OnnxRuntimeGenai(OneCallRuntime):
    """Decode at batch 1 with ONNX Runtime's CPU kernels, driven by its GenAI generator."""

    name: ClassVar[str] = "onnxruntime-genai"
    summary: ClassVar[str] = "ONNX Runtime GenAI on the CPU: fp32, or its builder's int8 and int4, head included"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, request: DecodeRequest) -> None:
        self.request = request
        self._start()
        # The model's files are mapped, and read a second time to observe the path.
        self._folder: Path | None = None
        self._model: Any = None
        self._generator: Any = None
        self._logits = np.empty(0, np.float32)

    @classmethod
    def unavailable_reason(cls, cell: Cell | None = None) -> str | None:
        """Say why ONNX Runtime GenAI cannot run here, or not this cell."""
        missing = first_missing(LIBRARIES)
        if missing:
            return f"{missing} is not installed; pip install 'memfloor[torch,onnxruntime-genai]'"
        found = version("onnxruntime-genai")
        if tuple(map(int, found.split(".")[:2])) != RELEASE:
            return f"onnxruntime-genai {found} was not tried; pip install 'memfloor[onnxruntime-genai]' brings 0.18"
        return None if cell is None else cell_reason(cell)

    def prepare(self) -> None:
        """Build the model's files, load them, and fill the KV cache by a prefill of `start_len` random tokens."""
        cell = self.request.cell
        require_memory(cell)
        check_context(cell.spec, self.request.start_len + self.request.max_steps)
        self._folder = Path(mkdtemp(prefix="memfloor-"))
        weakref.finalize(self, shutil.rmtree, self._folder)
        build_files(cell, self.request.seed, self._folder)
        self._model = _load(self._folder, cell)
        self._generator = _generator(self._model, self.request.start_len + self.request.max_steps)
        self._append_prompt()

    def step(self) -> None:
        """Feed the last token and choose the most likely next one."""
        generator = self._prepared()
        generator.append_tokens(np.array([self.token], np.int32))
        self._logits = generator.get_logits()[0, -1]
        self.token = int(self._logits.argmax())

    def rewind(self) -> None:
        """Forget what was decoded and feed the first token again."""
        self._prepared().rewind_to(self.request.start_len)
        self._start()

    @classmethod
    def passes_over_prompts(cls, cell: Cell) -> bool:
        """Tell that the generator takes a prompt in one pass."""
        return True

    def prefill(self) -> None:
        """Forget every token, take the prompt in one pass, and feed the first token again."""
        self._prepared().rewind_to(0)
        self._append_prompt()
        self._start()

    def last_logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, [V]."""
        return self._logits

    def cached_len(self) -> int:
        """Return the number of tokens in the KV cache."""
        return int(self._prepared().token_count())

    def observed_path(self) -> ObservedPath:
        """Take one more step in a second session that profiles its operators."""
        self._prepared()
        assert self._folder is not None
        cell = self.request.cell
        operators = count_operators(self._folder, cell)
        return ObservedPath(operators=operators, facts=_facts(operators, cell, self.request.start_len))

    def _append_prompt(self) -> None:
        if self.request.start_len:
            self._prepared().append_tokens(self.request.prompt()[0].astype(np.int32))

    def _start(self) -> None:
        self.token = self.request.first_token

    def _prepared(self) -> Any:
        if self._generator is None:
            raise UsageError("prepare the runtime before its first step")
        return self._generator


def cell_reason(cell: Cell) -> str | None:
    """Say why ONNX Runtime GenAI has no path for a cell; None if it has one."""
    weights, head, kv = cell.workload.weights, cell.workload.head, cell.workload.kv
    rope = str((cell.spec.rope_scaling or {}).get("rope_type", "default"))
    refused = {
        f"onnxruntime-genai runs on a cpu here, not on {cell.device}": cell.device != "cpu",
        f"batch {cell.workload.batch} is not 1": cell.workload.batch != 1,
        f"onnxruntime-genai runs weights {', '.join(PRECISIONS)}, not {weights}": weights not in PRECISIONS,
        f"onnxruntime-genai keeps the head in the weights' format {weights}, not {head}; --head {weights}": head
        != weights,
        f"onnxruntime-genai keeps the KV cache in fp32 on a cpu, not {kv}; --kv fp32": kv != "fp32",
        "sliding-window attention is not supported": cell.spec.num_sliding_layers > 0,
        f"rope type {rope} is not supported": rope not in ROPE_TYPES,
    }
    return next((reason for reason, holds in refused.items() if holds), None)


def build_files(cell: Cell, seed: int, folder: Path) -> None:
    """Write a cell's model with the library's own builder, from weights at their full precision.

    The builder wants a tokenizer beside the weights and copies it; decoding needs none, so it gets one of one word.
    """
    from onnxruntime_genai.models.builder import create_model, parse_extra_options
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    # The head comes in the weights' format.
    dtype = unquantized(cell.workload.weights)
    plain = cell.workload.model_copy(update={"weights": dtype, "head": dtype})
    logging.getLogger("onnxruntime.quantization").setLevel(logging.ERROR)
    # It prints what it does, and a bar of its progress.
    with TemporaryDirectory(prefix="memfloor-") as source, _silence():
        load_model(cell.model_copy(update={"workload": plain}), seed).save_pretrained(source)
        words = Tokenizer(models.WordLevel({"word": 0}, unk_token="word"))
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="word").save_pretrained(source)
        asked = ("", source, str(folder), PRECISIONS[cell.workload.weights], "cpu", str(Path(source) / "cache"))
        create_model(*asked, **parse_extra_options(*asked, ["hf_remote=false"]))


@contextlib.contextmanager
def _silence() -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _load(folder: Path, cell: Cell, **session: str) -> Any:
    import onnxruntime_genai

    config = onnxruntime_genai.Config(str(folder))
    options = {"intra_op_num_threads": len(allowed_cpus(cell.threads)), "inter_op_num_threads": 1, **session}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    return onnxruntime_genai.Model(config)


def _generator(model: Any, max_len: int) -> Any:
    import onnxruntime_genai

    params = onnxruntime_genai.GeneratorParams(model)
    params.set_search_options(max_length=max_len, do_sample=False)
    return onnxruntime_genai.Generator(model, params)


def count_operators(folder: Path, cell: Cell) -> dict[str, int]:
    """Return how often one step calls each operator of ONNX Runtime, as its own profiler saw it."""
    model = _load(folder, cell, enable_profiling=str(folder / "profile"))
    generator = _generator(model, 2)
    generator.append_tokens(np.zeros(1, np.int32))
    generator.get_logits()
    # The profile is written when the session ends.
    del generator, model
    (profile,) = folder.glob("profile*.json")
    events = json.loads(profile.read_text())
    profile.unlink()
    names = (event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time"))
    return dict(sorted(Counter(names).items()))


def _facts(operators: Mapping[str, int], cell: Cell, start_len: int) -> dict[str, str]:
    multiplied = {name: count for name, count in operators.items() if name.startswith("MatMul")}
    asked = "MatMul" if cell.workload.weights == "fp32" else "MatMulNBits"
    path = ", ".join(f"{name} x{count}" for name, count in multiplied.items())
    return {
        "path": path if set(multiplied) == {asked} else f"NOT AS ASKED: {path}, not {asked} alone",
        "launch": "one append_tokens per step, greedy",
        "onnxruntime_genai": version("onnxruntime-genai"),
        "onnxruntime": version("onnxruntime"),
        "threads": str(len(allowed_cpus(cell.threads))),
        "activations": "quantised to 8 bits by blocks (accuracy level 4)" if asked == "MatMulNBits" else "fp32",
        "cache_fill": "prefill of random tokens" if start_len else "empty",
    }
