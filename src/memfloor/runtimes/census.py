"""Count the framework operators of one step: which path the dispatcher really took."""

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

# Where an operator of a library may have its kernel: for one kind of device, or for all as a composition of others.
_KERNEL_KEYS = {"cpu": ("CPU", "CompositeExplicitAutograd"), "cuda": ("CUDA", "CompositeExplicitAutograd")}


def operator_census(step: Callable[[], object], inside: Collection[str] = (), device: str = "cpu") -> dict[str, int]:
    """Run a step once and return how often it called each operator.

    The step runs under `no_grad`, not `inference_mode`, so that composite operators such as
    `scaled_dot_product_attention` are seen as the back end they chose.

    Args:
        step: What is run.
        inside: Namespaces whose operators are counted together with those that they call: a library's operator may
            be a kernel of its own, or unpack its weights and call torch's.
        device: Kind of device the step runs on.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    counts: Counter[str] = Counter()

    class Census(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            counts[func.name()] += 1
            key = _kernel_key(func, device) if func.namespace in inside else None
            if key is None:
                return func(*args, **(kwargs or {}))
            # Dispatched as usual, what the kernel calls would pass this mode by.
            with self:
                return func._op_dk(key, *args, **(kwargs or {}))

    with torch.no_grad(), Census():  # type: ignore[no-untyped-call]
        step()
    return dict(sorted(counts.items()))


def _kernel_key(operator: Any, device: str) -> Any:
    import torch

    found = torch._C._dispatch_has_kernel_for_dispatch_key
    return next(
        (getattr(torch._C.DispatchKey, key) for key in _KERNEL_KEYS[device] if found(operator.name(), key)), None
    )
