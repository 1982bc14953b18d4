"""The operator libraries behind GPTQModel's kernels: compiled by it at first use, or brought along ready-built."""

from importlib import import_module
from pathlib import Path
from typing import Any

from memfloor.cache import cache_folder
from memfloor.errors import UsageError
from memfloor.runtimes.gptq_kernels import KERNELS, Kernel


def extension_name(kernel: Kernel, dtype: str) -> str | None:
    """Return the operator library of a kernel for activations of a type; None where torch has the operator."""
    return kernel.extensions[dtype] if kernel.extensions else None


def operators_file(extension: str) -> Path:
    """Return where a ready-built library belongs, by the name of GPTQModel's own build, below the user's cache."""
    return cache_folder("gptqmodel") / f"gptqmodel_{extension}_ops.so"


def operators_reason(name: str, dtype: str) -> str | None:
    """Say why a kernel has no ready-built operators here; None if it has."""
    extension = extension_name(KERNELS[name], dtype)
    if extension is None:
        return f"kernel {name} has no operators of its own; operators=jit"
    file = operators_file(extension)
    return None if file.is_file() else f"operators=prebuilt needs {file}, which is not there; operators=jit compiles it"


def load_operators(extension: str, prebuilt: bool) -> None:
    """Load an operator library, from its file or by GPTQModel, which compiles it where its cache has none.

    Raises:
        UsageError: It does not load or compile here.
    """
    if prebuilt:
        _load_file(operators_file(extension))
    extensions = gptqmodel_module("extension")
    if not extensions.is_available(extension):
        raise UsageError(f"gptqmodel's {extension} does not load: {extensions.error(extension)}")


def gptqmodel_module(name: str) -> Any:
    """Import a module of GPTQModel.

    Raises:
        UsageError: It does not load here.
    """
    try:
        return import_module(f"gptqmodel.{name}")
    except (ImportError, OSError, RuntimeError) as error:
        # Its first import loads dozens of libraries, some of which may be built for another torch.
        raise UsageError(f"gptqmodel does not load: {error}") from error


def _load_file(file: Path) -> None:
    import torch

    try:
        torch.ops.load_library(file)
    except OSError as error:
        raise UsageError(f"{file} does not load: {error}") from error
