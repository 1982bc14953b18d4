"""HQQ: half-quadratic int4 and int8 in a Hugging Face model, multiplied by HQQ's own PyTorch back end."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from memfloor.runtimes.hf_quantized import HfQuantized
from memfloor.runtimes.library import Library

if TYPE_CHECKING:
    import torch

BITS = {"int4-g64": 4, "int8-g64": 8}
GROUP = 64


class Hqq(HfQuantized):
    """Decode with `HQQLinear` in place of every linear layer but the head, groups of 64 along K.

    Its PyTorch back end writes 16-bit weights before each product. Its `torchao_int4` back end is left out: it reads
    torch's version by three characters, takes 2.11 for 2.1, and packs for a torch before 2.5.
    """

    name: ClassVar[str] = "hqq"
    summary: ClassVar[str] = "HQQ in a Hugging Face model: int4-g64 and int8-g64, unpacked before each product"
    library: ClassVar[Library] = Library("hqq", extra="hqq", at_least=(0, 2, 8), below=(0, 3))
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(BITS, ("cpu", "cuda"))
    # It has none: torch's operators unpack, and torch's product follows.
    products: ClassVar[Mapping[str, re.Pattern[str]]] = dict.fromkeys(("cpu", "cuda"), re.compile("hqq::"))
    unpacks: ClassVar[re.Pattern[str]] = re.compile("hqq::hqq_aten_dequantize")

    def quantize_linear(self, linear: "torch.nn.Linear") -> "torch.nn.Module":
        """Return HQQ's layer for one of torch's."""
        import torch
        from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

        cell = self.request.cell
        config = BaseQuantizeConfig(nbits=BITS[cell.workload.weights], group_size=GROUP, axis=1)
        layer: torch.nn.Module = HQQLinear(linear, config, compute_dtype=torch.bfloat16, device=cell.device)
        return layer

    def quantized_tensors(self, layer: Any) -> "Iterator[torch.Tensor]":
        """Yield the codes, scales and zeros of one projection."""
        yield from (layer.W_q, layer.meta["scale"], layer.meta["zero"])
