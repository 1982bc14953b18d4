"""llama.cpp by its low-level interface: a model, a context that decodes one token a call, and its operators."""

import ctypes
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfloor.errors import UsageError

PREFILL_CHUNK_TOKENS = 512
# ggml.h: enum ggml_log_level.
LOG_ERROR = 4
_last_words: deque[str] = deque(maxlen=3)
_log: Any = None


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """Fix what a context is made for.

    Attributes:
        n_ctx: Tokens that its KV cache holds; llama.cpp rounds it up to a multiple of 256.
        kv_type: ggml's number of the type of the KV cache.
        flash: Whether attention is one fused operator.
    """

    n_ctx: int
    threads: int
    kv_type: int
    flash: bool


def silent_api() -> Any:
    """Return the library's bindings with its log kept out of standard error; errors are kept for `last_words`."""
    global _log
    import llama_cpp

    if _log is None:
        _log = llama_cpp.llama_log_callback(_keep_error)
    llama_cpp.llama_log_set(_log, None)
    return llama_cpp


def _keep_error(level: int, text: bytes, _data: object) -> None:
    if level == LOG_ERROR:
        _last_words.append(text.decode(errors="replace").strip())


def last_words() -> str:
    """Return the last errors that llama.cpp logged."""
    return "; ".join(_last_words) or "llama.cpp gave no reason"


def quantize_rows(numbers: NDArray[np.float32], kind: int) -> NDArray[np.uint8]:
    """Return rows of numbers [N, K] as llama.cpp itself quantises them, without an importance matrix.

    Args:
        numbers: The rows; K is a multiple of the type's block.
        kind: ggml's number of the type.
    """
    import gguf

    api = silent_api()
    rows = np.ascontiguousarray(numbers, np.float32)
    quantized = np.empty(gguf.quants.quant_shape_to_byte_shape(rows.shape, gguf.GGMLQuantizationType(kind)), np.uint8)
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    types = (ctypes.c_size_t, ctypes.c_int, pointer, pointer, count, count, count, pointer)
    quantize = ctypes.CFUNCTYPE(*types)(("ggml_quantize_chunk", api.llama_cpp._lib))
    written = quantize(kind, rows.ctypes.data, quantized.ctypes.data, 0, *rows.shape, None)
    assert written == quantized.nbytes
    return quantized


class LlamaModel:
    """Hold a model that was loaded from a GGUF file, all of it in the memory of the CPU."""

    def __init__(self, path: Path) -> None:
        """Load the file, which may be deleted afterwards.

        Raises:
            UsageError: llama.cpp refuses it.
        """
        self.api = silent_api()
        params = self.api.llama_model_default_params()
        params.n_gpu_layers = 0
        self.handle = self.api.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise UsageError(f"llama.cpp does not load the model: {last_words()}")
        self.vocab_size = int(self.api.llama_vocab_n_tokens(self.api.llama_model_get_vocab(self.handle)))

    def facts(self) -> dict[str, str]:
        """Return what llama.cpp says of the model and of itself."""
        text = ctypes.create_string_buffer(128)
        self.api.llama_model_desc(self.handle, text, len(text))
        return {
            "model": text.value.decode(),
            "model_bytes": str(self.api.llama_model_size(self.handle)),
            "llama_cpp_python": self.api.__version__,
            "system_info": self.api.llama_print_system_info().decode().strip(),
        }


class LlamaContext:
    """Decode one sequence, greedily."""

    def __init__(self, model: LlamaModel, settings: ContextSettings, on_operator: Any = None) -> None:
        """Allocate the KV cache.

        Args:
            model: The model.
            settings: What the context is made for.
            on_operator: ggml's callback for each operator of a step, or None.

        Raises:
            UsageError: llama.cpp refuses the settings.
        """
        self._api = model.api
        self._on_operator = on_operator
        self.handle = self._api.llama_init_from_model(model.handle, self._params(settings))
        if not self.handle:
            raise UsageError(f"llama.cpp makes no context for {settings}: {last_words()}")
        self._batch = self._api.llama_batch_init(1, 0, 1)
        self._batch.n_tokens = 1
        self._batch.n_seq_id[0] = 1
        self._batch.seq_id[0][0] = 0
        self._batch.logits[0] = 1
        # Looked up once: each look-up of a field makes a new object.
        self._token, self._position = self._batch.token, self._batch.pos
        self._logits = np.empty(0, np.float32)
        self._vocab_size = model.vocab_size

    def _params(self, settings: ContextSettings) -> Any:
        params = self._api.llama_context_default_params()
        params.n_ctx = settings.n_ctx
        params.n_batch = params.n_ubatch = PREFILL_CHUNK_TOKENS
        params.n_threads = params.n_threads_batch = settings.threads
        params.type_k = params.type_v = settings.kv_type
        params.flash_attn_type = int(settings.flash)
        if self._on_operator is not None:
            params.cb_eval = self._on_operator
        return params

    def decode(self, token: int, position: int) -> int:
        """Append a token at a position and return the most likely next one."""
        self._token[0] = token
        self._position[0] = position
        self._check(self._api.llama_decode(self.handle, self._batch))
        if not self._logits.size:
            # One row, allocated with the context, for as long as no call asks for more rows than one.
            pointer = self._api.llama_get_logits(self.handle)
            self._logits = np.ctypeslib.as_array(pointer, (self._vocab_size,))
        return int(self._logits.argmax())

    def logits(self) -> NDArray[np.float32]:
        """Return a copy of the last step's logits, [V]."""
        return self._logits.copy()

    def prefill(self, tokens: Sequence[int]) -> None:
        """Append tokens in chunks."""
        for start in range(0, len(tokens), PREFILL_CHUNK_TOKENS):
            chunk = tokens[start : start + PREFILL_CHUNK_TOKENS]
            array = (self._api.llama_token * len(chunk))(*chunk)
            self._check(self._api.llama_decode(self.handle, self._api.llama_batch_get_one(array, len(chunk))))

    def clear(self) -> None:
        """Forget every token."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self.handle), True)

    def forget_from(self, position: int) -> None:
        """Forget every token from a position on.

        Raises:
            UsageError: llama.cpp cannot forget a part of its cache.
        """
        if not self._api.llama_memory_seq_rm(self._api.llama_get_memory(self.handle), 0, position, -1):
            raise UsageError(f"llama.cpp does not forget the tokens from {position} on: {last_words()}")

    def cached_len(self) -> int:
        """Return the number of tokens in the KV cache."""
        return int(self._api.llama_memory_seq_pos_max(self._api.llama_get_memory(self.handle), 0)) + 1

    def read_state(self) -> bytes:
        """Return the KV cache as llama.cpp stores it."""
        size = self._api.llama_state_seq_get_size(self.handle, 0)
        buffer = (ctypes.c_uint8 * size)()
        self._api.llama_state_seq_get_data(self.handle, buffer, size, 0)
        return bytes(buffer)

    def write_state(self, state: bytes) -> None:
        """Replace the KV cache by a stored one.

        Raises:
            UsageError: llama.cpp refuses it.
        """
        pointer = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))
        if not self._api.llama_state_seq_set_data(self.handle, pointer, len(state), 0):
            raise UsageError(f"llama.cpp does not take the KV cache: {last_words()}")

    def free(self) -> None:
        """Give the memory back; the context is of no use afterwards."""
        self._api.llama_batch_free(self._batch)
        self._api.llama_free(self.handle)

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(f"llama_decode returned {status}: {last_words()}")


@contextmanager
def _context(model: LlamaModel, settings: ContextSettings, on_operator: Any) -> Iterator[LlamaContext]:
    context = LlamaContext(model, settings, on_operator)
    try:
        yield context
    finally:
        context.free()


def count_operators(model: LlamaModel, settings: ContextSettings) -> dict[str, int]:
    """Return how often one step calls each operator of ggml, those that move nothing included.

    The step is taken in a second, short context of the same settings: a callback cannot be hung into the one that
    was timed, and would cost it a call into Python for each operator.
    """
    counts: Counter[str] = Counter()
    name_of: Callable[[int], bytes] = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(
        ("ggml_op_desc", model.api.llama_cpp._lib)
    )

    def count(tensor: int, ask: bool, _data: object) -> bool:
        if ask:
            counts[name_of(tensor).decode()] += 1
        return False

    with _context(model, replace(settings, n_ctx=1), model.api.ggml_backend_sched_eval_callback(count)) as context:
        context.decode(0, 0)
    return dict(sorted(counts.items()))
