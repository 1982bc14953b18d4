"""What torch.compile with Inductor needs, and what it has written."""

import os
import re
import shutil
import sysconfig
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

# A call of a kernel or of a library in the code that Inductor writes.
KERNEL_CALL = re.compile(
    r"^ +(?:\w+ = )?(cpp_\w+|triton_\w+|extern_kernels\.\w+|torch\.ops\.[\w.]+?)(?:\.run)?\(", re.MULTILINE
)


def compiled_graphs() -> int:
    """Return how many graphs this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def kernel_calls() -> dict[str, int]:
    """Return the calls of each kernel in all code that Inductor wrote in this process."""
    from torch._inductor.codecache import PyCodeCache

    sources = [Path(str(module.__file__)).read_text() for module in PyCodeCache.modules]
    return dict(sorted(Counter(call for source in sources for call in KERNEL_CALL.findall(source)).items()))


def missing_compiler() -> str | None:
    """Say what is missing to compile what Inductor writes for a host; None if nothing is."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"torch.compile needs a C++ compiler and finds no {compiler}; install one (Debian: apt install g++)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "torch.compile needs Python's headers; install them (Debian: apt install python3-dev)"
    return None


def triton_reason(device: str) -> str | None:
    """Say that triton is missing where code for a device kind needs it; None if it is not."""
    if device == "cuda" and find_spec("triton") is None:
        return "torch.compile needs triton on a GPU; pip install triton"
    return None
