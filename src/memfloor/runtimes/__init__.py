"""The systems under test, one file each; to add one, write its file and add a line here."""

from memfloor.errors import UsageError
from memfloor.runtimes.hf import HfEager
from memfloor.runtimes.hf_static import HfStatic
from memfloor.runtimes.protocol import DecodeRequest, Runtime

REGISTRY: dict[str, type[Runtime]] = {
    runtime.name: runtime
    for runtime in (
        HfEager,
        HfStatic,
    )
}

__all__ = ["REGISTRY", "DecodeRequest", "Runtime", "find_runtime"]


def find_runtime(name: str) -> type[Runtime]:
    """Return a runtime by name.

    Raises:
        UsageError: No runtime has that name.
    """
    if name not in REGISTRY:
        raise UsageError.unknown("runtime", name, REGISTRY)
    return REGISTRY[name]
