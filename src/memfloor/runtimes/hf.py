"""Hugging Face transformers as the study ran it: eager, SDPA, a dynamic cache, one Python call per step."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memfloor.record import Cell, ObservedPath, Outputs
from memfloor.runtimes.census import operator_census
from memfloor.runtimes.hf_model import load_model, torch_dtype
from memfloor.runtimes.memory import require_memory
from memfloor.runtimes.protocol import DecodeRequest, TracedParts
from memfloor.runtimes.random_weights import random_tensor
from memfloor.runtimes.stored_quantization import stored_quantization

if TYPE_CHECKING:
    import torch

DTYPES = ("bf16", "fp16", "fp32")
# Back ends of scaled_dot_product_attention; the default lets torch choose, as the study did.
SDPA_BACKENDS = ("default", "flash", "efficient", "math", "cudnn")
PREFILL_CHUNK_TOKENS = 512


class HfEager:
    """Decode with `AutoModelForCausalLM`, `attn_implementation="sdpa"` and a `DynamicCache`.

    Attributes:
        looked_into: Namespaces of operators that the census counts with what they call.
    """

    name: ClassVar[str] = "hf-eager"
    summary: ClassVar[str] = "Hugging Face transformers, eager, SDPA, dynamic cache: the study's path"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {"sdpa": SDPA_BACKENDS}
    looked_into: ClassVar[tuple[str, ...]] = ()

    def __init__(self, request: DecodeRequest) -> None:
        self.request = request
        self.model: Any = None
        self.cache: Any = None
        self.token: torch.Tensor | None = None

    @classmethod
    def unavailable_reason(cls, cell: Cell | None = None) -> str | None:
        """Say why transformers cannot run here, or not this cell."""
        try:
            import torch
            import transformers  # noqa: F401
        except ImportError as error:
            return f"{error.name} is not installed; pip install 'memfloor[torch]'"
        if cell is None:
            return None
        if cell.device == "cuda" and not torch.cuda.is_available():
            return "torch sees no CUDA GPU"
        if cell.options.get("sdpa", "default") != "default" and cell.device != "cuda":
            return "sdpa back ends are pinned on a CUDA GPU only"
        return cls.refused_formats(cell) or cls.refused_checkpoint(cell)

    @classmethod
    def refused_formats(cls, cell: Cell) -> str | None:
        """Say which format of a cell this runtime has no path for; None if it has one for all."""
        workload = cell.workload
        if workload.weights not in DTYPES or workload.head != workload.weights:
            return f"{cls.name} runs weights {', '.join(DTYPES)}, not {workload.weights} with head {workload.head}"
        if workload.kv != workload.weights:
            return f"{cls.name} keeps the KV cache in the weights' type {workload.weights}, not {workload.kv}"
        return None

    @classmethod
    def refused_checkpoint(cls, cell: Cell) -> str | None:
        """Say why the checkpoint of a cell is none for this runtime; None if it is one, or there is none."""
        stored = stored_quantization(cell.weights_from)
        if stored is None:
            return None
        return f"{cell.weights_from} is quantised by {stored.get('quant_method')}; {cls.name} cannot run it"

    @classmethod
    def launches_one_by_one(cls, cell: Cell) -> bool:
        """Tell that every kernel is launched on its own."""
        return True

    @classmethod
    def steps_per_call(cls, cell: Cell) -> int:
        """Return one: each call decodes a token."""
        return 1

    def prepare(self) -> None:
        """Build the model, fill its cache, and choose a first token."""
        import torch

        cell = self.request.cell
        require_memory(self.loaded_cell())
        if cell.device == "cpu" and cell.threads:
            torch.set_num_threads(cell.threads)
        torch.manual_seed(self.request.seed)
        pin_sdpa(cell.options.get("sdpa", "default"))
        self.model = self.make_model()
        self.cache = self.make_cache()
        self.token = self.first_token()
        self.fill()

    def first_token(self) -> "torch.Tensor":
        """Return the token that the first step feeds, [B, 1]."""
        import torch

        cell = self.request.cell
        return torch.full((cell.workload.batch, 1), self.request.first_token, dtype=torch.long, device=cell.device)

    def rewind(self) -> None:
        """Cut what steps have appended off the cache, and feed the first token again."""
        if self.request.cell.spec.num_sliding_layers:
            # A window that has moved on keeps nothing of what it has left behind.
            self.cache = self.make_cache()
            self.fill()
        elif beyond := self.cache.get_seq_length() - self.request.start_len:
            self.cache.crop(-beyond)
        self.token = self.first_token()

    @classmethod
    def passes_over_prompts(cls, cell: Cell) -> bool:
        """Tell that the model takes a prompt in chunks."""
        return True

    def prefill(self) -> None:
        """Begin a new cache with the prompt, in chunks, and feed the first token again."""
        self.cache = self.make_cache()
        self._prefill()
        self.token = self.first_token()

    def loaded_cell(self) -> Cell:
        """Return the cell whose weights lie in memory while the model is made."""
        return self.request.cell

    def make_model(self) -> Any:
        """Return the model in evaluation mode."""
        return load_model(self.loaded_cell(), self.request.seed)

    def fill(self) -> None:
        """Fill the empty cache up to `start_len` tokens."""
        if not self.request.start_len:
            return
        if self.request.cell.prefill:
            self._prefill()
        else:
            self._fill_cache()

    def make_cache(self) -> Any:
        """Return an empty cache that grows by concatenation, as `generate` uses by default."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def step(self) -> None:
        """Feed the last token and choose the most likely next one."""
        self.eager_step()

    def eager_step(self) -> None:
        """Take one step operator by operator."""
        import torch

        with torch.inference_mode():
            self.forward()

    def forward(self) -> "torch.Tensor":
        """Run the model on the last token, keep the next and return the logits, without a gradient mode of its own."""
        output = self.model(input_ids=self.token, past_key_values=self.cache, use_cache=True)
        logits: torch.Tensor = output.logits[:, -1:]
        self.token = logits.argmax(dim=-1)
        return logits

    def step_with_logits(self) -> "torch.Tensor | None":
        """Take one step as `step` does and return its logits, [B, 1, V]; None where a step does not keep them."""
        import torch

        with torch.inference_mode():
            return self.forward()

    def outputs(self, steps: int) -> Outputs:
        """Take the next steps and return their tokens, and a digest of the last logits where they are kept."""
        tokens, logits = [], None
        for _ in range(steps):
            logits = self.step_with_logits()
            assert self.token is not None
            tokens.append(tuple(self.token.flatten().tolist()))
        return Outputs(tokens=tuple(tokens), logits_sha256=None if logits is None else _sha256(logits))

    def forced_logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Feed each token in a step of its own and return the logits that follow each, [T, V]."""
        import torch

        assert self.token is not None
        rows = []
        for token in tokens:
            # A step's own choice is a tensor that can be written to in this mode alone.
            with torch.inference_mode():
                self.token.fill_(token)
            rows.append(self.kept_logits()[0, -1].float().cpu().numpy())
        return np.stack(rows)

    def kept_logits(self) -> "torch.Tensor":
        """Take one step and return its logits, [B, 1, V]."""
        logits = self.step_with_logits()
        assert logits is not None
        return logits

    def observed_path(self) -> ObservedPath:
        """Take one more step under a census of its operators."""
        operators = operator_census(self.forward, self.looked_into, self.request.cell.device)
        return ObservedPath(operators=operators, facts=self.facts())

    def traced_parts(self) -> TracedParts | None:
        """Return the model, its cache and its eager step."""
        return TracedParts(module=self.model, cache=self.cache, eager_step=self.eager_step)

    def facts(self) -> dict[str, str]:
        """Return what the prepared model says of itself."""
        import torch

        parameter = next(self.model.parameters())
        return {
            "attention_implementation": str(self.model.config._attn_implementation),
            "model_class": type(self.model).__name__,
            "cache_class": type(self.cache).__name__,
            "weights_dtype": str(parameter.dtype),
            "weights_device": str(parameter.device),
            "torch_threads": str(torch.get_num_threads()),
            "launch": "eager",
        }

    def _fill_cache(self) -> None:
        import torch

        spec, workload = self.request.cell.spec, self.request.cell.workload
        shape = (workload.batch, spec.num_key_value_heads, self.request.start_len, spec.head_dim)
        dtype = torch_dtype(workload.kv)
        # Not inference mode: a static cache must stay writable outside it.
        with torch.no_grad():
            for layer in range(spec.num_hidden_layers):
                for_layer = self.request.seed + 2 * layer
                key = random_tensor(shape, dtype, self.request.cell.device, for_layer)
                value = random_tensor(shape, dtype, self.request.cell.device, for_layer + 1)
                self.cache.update(key, value, layer)

    def _prefill(self) -> None:
        import torch

        prompt = torch.from_numpy(self.request.prompt()).to(self.request.cell.device)
        with torch.no_grad():
            for chunk in prompt.split(PREFILL_CHUNK_TOKENS, dim=1):
                self.model(input_ids=chunk, past_key_values=self.cache, use_cache=True, logits_to_keep=1)


def _sha256(logits: "torch.Tensor") -> str:
    import torch

    return hashlib.sha256(logits.contiguous().view(torch.uint8).cpu().numpy().tobytes()).hexdigest()


def pin_sdpa(backend: str) -> None:
    """Leave torch one back end of scaled_dot_product_attention on CUDA for the life of this process."""
    import torch

    if backend != "default":
        torch.backends.cuda.enable_flash_sdp(backend == "flash")
        torch.backends.cuda.enable_mem_efficient_sdp(backend == "efficient")
        torch.backends.cuda.enable_math_sdp(backend == "math")
        torch.backends.cuda.enable_cudnn_sdp(backend == "cudnn")
