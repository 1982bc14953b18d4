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


def large_outputs(step: Callable[[], object], size_bytes: int) -> dict[str, int]:
    """Run a step once and return how often each operator wrote so many bytes or more into memory of its own.

    Views and what lies in an operator's own inputs do not count.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    counts: Counter[str] = Counter()

    def buffers(tree: Any) -> dict[int, int]:
        tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
        return {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in tensors}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = buffers((args, kwargs))
            result = func(*args, **(kwargs or {}))
            own = {address: size for address, size in buffers(result).items() if address not in given}
            counts[func.name()] += sum(size >= size_bytes for size in own.values())
            return result

    with torch.no_grad(), Watch():  # type: ignore[no-untyped-call]
        step()
    return {name: count for name, count in sorted(counts.items()) if count}


def device_kernels(step: Callable[[], object]) -> dict[str, int]:
    """Run a step once under torch's profiler and return how often each kernel ran on the GPU.

    Not for a process that is still to be timed: a profiler slows what comes after it.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    return dict(sorted(Counter(event.name for event in seen.events() if "CUDA" in str(event.device_type)).items()))
