"""Count the framework operators of one step: which path the dispatcher really took."""

from collections import Counter
from collections.abc import Callable
from typing import Any


def operator_census(step: Callable[[], object]) -> dict[str, int]:
    """Run a step once and return how often it called each aten operator.

    The step runs under `no_grad`, not `inference_mode`, so that composite operators such as
    `scaled_dot_product_attention` are seen as the back end they chose.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    counts: Counter[str] = Counter()

    class Census(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            counts[func.name()] += 1
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Census():  # type: ignore[no-untyped-call]
        step()
    return dict(sorted(counts.items()))
