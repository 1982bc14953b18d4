"""FlashAttention-3: its own package, or the library of it that the vLLM wheel carries."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from memfloor.record import Cell
from memfloor.runtimes.attention.backend import LayerByLayer
from memfloor.runtimes.attention.flash_attention_2 import cached_lengths, tokens_first
from memfloor.runtimes.attention.layers import Layer

PACKAGE = "flash_attn_interface"
VLLM_LIBRARY = "vllm_flash_attn/_vllm_fa3_C*.so"
INSTALL = (
    f"{PACKAGE} is not installed; build hopper/ of github.com/Dao-AILab/flash-attention, or pip install vllm, "
    "whose wheel carries the kernels as _vllm_fa3_C"
)
# Numbers that the operator's schema has no default for: one GPU, no share of it kept back, splits as it sees fit.
PLAIN = {"sm_margin": 0, "num_splits": 0, "cp_world_size": 1, "cp_rank": 0, "softcap": 0.0}


class FlashAttention3(LayerByLayer):
    """Attend with `flash_attn_with_kvcache` of the Hopper package, or with the same operator out of the vLLM wheel."""

    name: ClassVar[str] = "flash-attention-3"
    summary: ClassVar[str] = "FlashAttention-3 for Hopper GPUs, its own package or the vLLM wheel's library"
    tokens_first: ClassVar[bool] = True

    @classmethod
    def library_reason(cls) -> str | None:
        """Say that neither source is installed; None if one is."""
        return None if find_spec(PACKAGE) or vllm_library() else INSTALL

    @classmethod
    def cell_reason(cls, cell: Cell) -> str | None:
        """Say that the GPU is not one the kernels were written for; None if it is."""
        import torch

        found = torch.cuda.get_device_capability()
        return None if found[0] == 9 else f"FlashAttention-3 needs compute capability 9.x, not {found[0]}.{found[1]}"

    def layer_call(self, layer: Layer) -> Callable[[], Any]:
        """Return the call that attends in one layer."""
        return self._own(layer) if find_spec(PACKAGE) else self._from_vllm(layer)

    def facts(self, operators: Mapping[str, int]) -> dict[str, str]:
        """Return where the kernels come from."""
        return {"library": PACKAGE if find_spec(PACKAGE) else "vllm _vllm_fa3_C"}

    def _own(self, layer: Layer) -> Callable[[], Any]:
        from flash_attn_interface import flash_attn_with_kvcache

        query, keys, values = tokens_first(layer)
        lengths = cached_lengths(layer)
        # Zero lets it choose the splits, as its own benchmarks do.
        return lambda: flash_attn_with_kvcache(query, keys, values, cache_seqlens=lengths, causal=False, num_splits=0)

    def _from_vllm(self, layer: Layer) -> Callable[[], Any]:
        import torch

        torch.ops.load_library(str(vllm_library()))
        operator = torch.ops._vllm_fa3_C.fwd.default
        query, keys, values = tokens_first(layer)
        given = {
            "q": query,
            "k": keys,
            "v": values,
            "seqused_k": cached_lengths(layer),
            "max_seqlen_q": 1,
            "max_seqlen_k": keys.shape[1],
            "softmax_scale": query.shape[-1] ** -0.5,
            "is_causal": False,
            "window_size_left": -1,
            "window_size_right": -1,
            "is_rotary_interleaved": True,
        }
        arguments = arguments_of(operator, given)
        return lambda: operator(*arguments)[0]


def vllm_library() -> Path | None:
    """Return the library of FlashAttention-3 in an installed vLLM, which is not imported; None if there is none."""
    found = find_spec("vllm")
    folders = [] if found is None else map(Path, found.submodule_search_locations or ())
    return next((path for folder in folders for path in sorted(folder.glob(VLLM_LIBRARY))), None)


def arguments_of(operator: Any, given: Mapping[str, Any]) -> list[Any]:
    """Return an operator's arguments in its schema's order, which differs between versions of a library.

    What is not given is the schema's default, a plain number, or None where the schema allows that.

    Raises:
        RuntimeError: The schema wants an argument that nobody has a value for, or lacks one that is given.
    """
    wanted = operator._schema.arguments
    unknown = given.keys() - {argument.name for argument in wanted}
    if unknown:
        raise RuntimeError(f"{operator.name()} takes no {', '.join(sorted(unknown))}: this version is not supported")
    return [_argument(operator, argument, given) for argument in wanted]


def _argument(operator: Any, argument: Any, given: Mapping[str, Any]) -> Any:
    for values in (given, PLAIN):
        if argument.name in values:
            return values[argument.name]
    if argument.has_default_value():
        return argument.default_value
    if argument.type.kind() == "OptionalType":
        return None
    raise RuntimeError(f"{operator.name()} wants {argument.name}: this version is not supported")
