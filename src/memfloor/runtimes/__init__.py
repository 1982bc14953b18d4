"""The systems under test, one file each; to add one, write its file and add a line here."""

from collections.abc import Mapping

from memfloor.errors import UsageError
from memfloor.record import Cell, StepPart
from memfloor.runtimes.attention import BACKENDS
from memfloor.runtimes.bitsandbytes import Bitsandbytes
from memfloor.runtimes.engine import Engine
from memfloor.runtimes.exllamav3 import ExllamaV3
from memfloor.runtimes.gptqmodel import GptqModel, GptqModelStatic
from memfloor.runtimes.hf import HfEager
from memfloor.runtimes.hf_compile import HfCompile
from memfloor.runtimes.hf_static import HfStatic
from memfloor.runtimes.hqq import Hqq
from memfloor.runtimes.llama_cpp import LlamaCpp
from memfloor.runtimes.onnxruntime_genai import OnnxRuntimeGenai
from memfloor.runtimes.openvino import OpenVino
from memfloor.runtimes.protocol import DecodeRequest, Prefilling, Runtime, System
from memfloor.runtimes.torchao import Torchao, TorchaoCompile

REGISTRY: dict[str, type[Runtime]] = {
    runtime.name: runtime
    for runtime in (
        HfEager,
        HfStatic,
        HfCompile,
        Engine,
        LlamaCpp,
        Bitsandbytes,
        Torchao,
        TorchaoCompile,
        Hqq,
        GptqModel,
        GptqModelStatic,
        ExllamaV3,
        OnnxRuntimeGenai,
        OpenVino,
    )
}

__all__ = [
    "BACKENDS",
    "REGISTRY",
    "DecodeRequest",
    "Prefilling",
    "Runtime",
    "System",
    "check_options",
    "find_attention",
    "find_runtime",
    "find_system",
    "system_of",
]


def check_options(runtime: type[System], options: Mapping[str, str]) -> None:
    """Refuse options that a runtime does not have.

    Raises:
        UsageError: An option or its value is unknown to the runtime.
    """
    for name, value in options.items():
        if name not in runtime.options:
            raise UsageError.unknown(f"option of {runtime.name}", name, runtime.options or ["none"])
        if value not in runtime.options[name]:
            raise UsageError.unknown(f"{runtime.name} {name}", value, runtime.options[name])


def find_runtime(name: str) -> type[Runtime]:
    """Return a runtime by name.

    Raises:
        UsageError: No runtime has that name.
    """
    if name not in REGISTRY:
        raise UsageError.unknown("runtime", name, REGISTRY)
    return REGISTRY[name]


def find_attention(name: str) -> type[System]:
    """Return an attention backend by name.

    Raises:
        UsageError: No backend has that name.
    """
    if name not in BACKENDS:
        raise UsageError.unknown("attention backend", name, BACKENDS)
    return BACKENDS[name]


def find_system(name: str, part: StepPart) -> type[System]:
    """Return what runs a part of a step by name.

    Raises:
        UsageError: Nothing has that name.
    """
    return find_attention(name) if part == "attention" else find_runtime(name)


def system_of(cell: Cell) -> type[System]:
    """Return what runs a cell.

    Raises:
        UsageError: Nothing has its name.
    """
    return find_system(cell.runtime, cell.part)
