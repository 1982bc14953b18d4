"""The binding to the native kernels, and the cores they may run on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from memfloor.errors import UsageError

_native: ModuleType | None
try:
    _native = import_module("memfloor._native")
except ImportError:
    # Installed without a compiler, or run from a source tree: `unavailable_reason` says what to do.
    _native = None


def unavailable_reason() -> str | None:
    """Say why the native kernels cannot be used here, with what to install; None if they can."""
    if _native is None:
        return "native kernels were not built; install a C++17 compiler (Debian: apt install g++), then pip install ."
    return None


def native() -> ModuleType:
    """Return the native module.

    Raises:
        UsageError: It was not built.
    """
    if _native is None:
        raise UsageError(unavailable_reason())
    return _native


@contextmanager
def bound_to(cpu: int) -> Iterator[None]:
    """Bind the calling thread to a CPU for a while.

    Not for good: `allowed_cpus` counts what the calling thread may use, and threads it starts later inherit that.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def allowed_cpus(threads: int | None = None) -> list[int]:
    """Return the CPUs this process may use, the first `threads` of them if given.

    Raises:
        UsageError: More threads are asked for than there are CPUs.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if threads is not None and not 1 <= threads <= len(cpus):
        raise UsageError(f"threads must be 1 to {len(cpus)} on this machine, not {threads}")
    return cpus[:threads]
