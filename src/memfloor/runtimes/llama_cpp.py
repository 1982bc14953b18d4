"""llama.cpp through llama-cpp-python, on the CPU: the weights in its own file format, one low-level call per step."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from memfloor.engine.checkpoint import Checkpoint
from memfloor.engine.cpu.native import allowed_cpus
from memfloor.errors import UsageError
from memfloor.record import Cell, ObservedPath
from memfloor.runtimes.gguf_file import (
    ARCHITECTURES,
    FILE_TYPES,
    GROUP_WEIGHTS,
    ROPE_TYPES,
    CheckpointWeights,
    RandomWeights,
    Weights,
    write_gguf,
)
from memfloor.runtimes.memory import require_memory
from memfloor.runtimes.one_call import OneCallRuntime
from memfloor.runtimes.protocol import DecodeRequest
from memfloor.spec import ModelSpec, check_context

if TYPE_CHECKING:
    from memfloor.runtimes.llama_context import ContextSettings, LlamaContext, LlamaModel

# ggml.h: enum ggml_type.
KV_TYPES = {"fp16": 1, "bf16": 30}
LAYERS_OF_70B = 80


class LlamaCpp(OneCallRuntime):
    """Decode at batch 1 with llama.cpp's own kernels.

    Options: `flash` = on (default, and what llama.cpp chooses by itself on a CPU) or off.
    """

    name: ClassVar[str] = "llama-cpp"
    summary: ClassVar[str] = (
        "llama.cpp on the CPU: bf16, Q8_0 (int8-g32), Q4_0 (int4-g32) or Q4_K_M (q4-k-m), head included"
    )
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"flash": ("on", "off")}

    def __init__(self, request: DecodeRequest) -> None:
        self.request = request
        self._start()
        self._model: LlamaModel | None = None
        self._context: LlamaContext | None = None
        self._cache_fill = ""

    @classmethod
    def unavailable_reason(cls, cell: Cell | None = None) -> str | None:
        """Say why llama.cpp cannot run here, or not this cell."""
        try:
            import gguf  # noqa: F401
            import llama_cpp  # noqa: F401
        except ImportError as error:
            return f"{error.name} is not installed; pip install 'memfloor[llama-cpp]', which builds llama.cpp"
        except (RuntimeError, FileNotFoundError) as error:
            # What its loader raises for a shared library that is missing or was built for another machine.
            return f"llama-cpp-python does not load ({error}); install it again on this machine"
        return None if cell is None else cell_reason(cell)

    def prepare(self) -> None:
        """Write the model's file, load it, delete it, and fill the KV cache up to `start_len` tokens."""
        from memfloor.runtimes.llama_context import LlamaContext, LlamaModel

        cell = self.request.cell
        require_memory(cell)
        check_context(cell.spec, self.request.start_len + self.request.max_steps)
        with TemporaryDirectory(prefix="memfloor-") as folder:
            path = Path(folder) / "model.gguf"
            write_gguf(path, cell.spec, cell.workload.weights, _weights(self.request))
            self._model = LlamaModel(path)
        self._context = LlamaContext(self._model, self._settings())
        self._cache_fill = self._fill_cache(self._context)

    def step(self) -> None:
        """Feed the last token and choose the most likely next one."""
        self.token = self._prepared().decode(self.token, self.position)
        self.position += 1

    def rewind(self) -> None:
        """Forget the tokens that steps have appended, and feed the first one again."""
        self._prepared().forget_from(self.request.start_len)
        self._start()

    @classmethod
    def passes_over_prompts(cls, cell: Cell) -> bool:
        """Tell that llama.cpp takes a prompt in chunks."""
        return True

    def prefill(self) -> None:
        """Forget every token, take the prompt in chunks, and feed the first token again."""
        context = self._prepared()
        context.clear()
        context.prefill(self.request.prompt()[0].tolist())
        self._start()

    def last_logits(self) -> NDArray[np.float32]:
        """Return the last step's logits, [V]."""
        return self._prepared().logits()

    def observed_path(self) -> ObservedPath:
        """Take one more step in a second context that counts its operators."""
        from memfloor.runtimes.llama_context import count_operators

        self._prepared()
        assert self._model is not None
        settings = self._settings()
        operators = count_operators(self._model, settings)
        facts = self._model.facts() | {
            "launch": "one llama_decode per step, greedy",
            "threads": str(settings.threads),
            "flash_attention": "on" if "FLASH_ATTN_EXT" in operators else "off",
            "kv_type": self.request.cell.workload.kv,
            "n_ctx": str(settings.n_ctx),
            "cache_fill": self._cache_fill,
        }
        return ObservedPath(operators=operators, facts=facts)

    def _settings(self) -> "ContextSettings":
        from memfloor.runtimes.llama_context import ContextSettings

        cell = self.request.cell
        return ContextSettings(
            n_ctx=self.request.start_len + self.request.max_steps,
            threads=len(allowed_cpus(cell.threads)),
            kv_type=KV_TYPES[cell.workload.kv],
            flash=self._flash(),
        )

    def _flash(self) -> bool:
        return self.request.cell.options.get("flash", "on") == "on"

    def _fill_cache(self, context: "LlamaContext") -> str:
        from memfloor.runtimes.llama_state import StateLayout, fill_cache

        cell, tokens, seed = self.request.cell, self.request.start_len, self.request.seed
        if not tokens:
            return "empty"
        vector = cell.spec.num_key_value_heads * cell.spec.head_dim
        layout = StateLayout(cell.spec.num_hidden_layers, vector, KV_TYPES[cell.workload.kv], not self._flash())
        if not cell.prefill and fill_cache(context, layout, tokens, seed):
            return "random keys and values, written as a state"
        context.prefill(self.request.prompt()[0].tolist())
        asked = "" if cell.prefill else "; this llama.cpp stores its state in another layout"
        return f"prefill of random tokens{asked}"

    def _start(self) -> None:
        self.token, self.position = self.request.first_token, self.request.start_len

    def _prepared(self) -> "LlamaContext":
        if self._context is None:
            raise UsageError("prepare the runtime before its first step")
        return self._context


def cell_reason(cell: Cell) -> str | None:
    """Say why llama.cpp has no path for a cell; None if it has one."""
    weights, head, kv = cell.workload.weights, cell.workload.head, cell.workload.kv
    refused = {
        f"llama-cpp runs on a cpu here, not on {cell.device}": cell.device != "cpu",
        f"batch {cell.workload.batch} is not 1": cell.workload.batch != 1,
        f"llama-cpp runs weights {', '.join(FILE_TYPES)}, not {weights}": weights not in FILE_TYPES,
        f"llama-cpp keeps the head in the weights' format {weights}, not {head}; --head {weights}": head != weights,
        f"llama-cpp keeps the KV cache in {', '.join(KV_TYPES)}, not {kv}": kv not in KV_TYPES,
        "q4-k-m of a model of 80 layers is another mix, whose V is Q5_K": weights == "q4-k-m"
        and cell.spec.num_hidden_layers == LAYERS_OF_70B,
    }
    return next((reason for reason, holds in refused.items() if holds), None) or _shape_reason(cell.spec)


def _shape_reason(spec: ModelSpec) -> str | None:
    family, query = spec.model_type, spec.num_attention_heads * spec.head_dim
    is_llama = ARCHITECTURES[family] == "LLAMA"
    columns = sorted({spec.hidden_size, spec.intermediate_size, query})
    rope = str((spec.rope_scaling or {}).get("rope_type", "default"))
    refused = {
        "sliding-window attention is not supported": spec.num_sliding_layers > 0,
        f"rope type {rope} is not supported": rope not in ROPE_TYPES,
        f"rope type {rope} is not supported for {family}": rope == "llama3" and not is_llama,
        f"biases after attention or in the MLP are not supported for {family}": not is_llama
        and (spec.attention_output_bias or spec.mlp_bias),
        f"{spec.num_attention_heads} heads of {spec.head_dim} are not the hidden size {spec.hidden_size}, "
        "as llama.cpp's qwen2 needs": family == "qwen2" and query != spec.hidden_size,
        f"matrices of {', '.join(map(str, columns))} columns: not all are multiples of {GROUP_WEIGHTS}": any(
            count % GROUP_WEIGHTS for count in columns
        ),
    }
    return next((reason for reason, holds in refused.items() if holds), None)


def _weights(request: DecodeRequest) -> Weights:
    cell = request.cell
    if cell.weights_from is None:
        return RandomWeights(request.seed)
    return CheckpointWeights(cell.spec, Checkpoint(Path(cell.weights_from), cell.spec))
