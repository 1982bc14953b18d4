"""A local checkpoint whose projections are packed in 4 bits already, as GPTQ and AWQ tools save them.

Source: the `quantization_config` of https://huggingface.co/docs/transformers/quantization/gptq and .../awq
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfloor.errors import UsageError
from memfloor.runtimes.gptq_kernels import BITS, GROUP
from memfloor.runtimes.stored_quantization import stored_quantization
from memfloor.runtimes.stored_tensors import StoredTensors

if TYPE_CHECKING:
    import torch

# By method, the names that tools give to the layout read here; GPTQ's first format stores every zero less one.
FORMATS = {"gptq": ("gptq", "gptq_v2"), "awq": ("gemm",)}
# One less in each of eight codes of a word.
ONES = 0x11111111


@dataclass(frozen=True, slots=True)
class Packing:
    """Say how a checkpoint is packed.

    Attributes:
        method: `gptq` or `awq`.
        symmetric: Whether every zero is 8.
        zeros_less_one: Whether zeros are stored less one.
    """

    method: str
    symmetric: bool
    zeros_less_one: bool


def read_packing(folder: str | None) -> Packing | None:
    """Return how a checkpoint is packed; None if there is none, or its weights are not quantised.

    Raises:
        UsageError: Its config cannot be read, or names another method, width, group size, layout or order of columns.
    """
    config = stored_quantization(folder)
    return None if config is None else _packing(str(folder), config)


def _packing(folder: str, config: Mapping[str, Any]) -> Packing:
    method = config.get("quant_method")
    if method not in FORMATS:
        raise UsageError.unknown(f"quant_method of {folder}", method, FORMATS)
    layout = str(config.get("checkpoint_format") or config.get("format") or config.get("version") or FORMATS[method][0])
    refused = {
        f"bits {config.get('bits')} are not {BITS}": config.get("bits") != BITS,
        f"group_size {config.get('group_size')} is not {GROUP}": config.get("group_size") != GROUP,
        f"layout {layout} is not {' or '.join(FORMATS[method])}": layout.lower() not in FORMATS[method],
        "desc_act reorders columns; save it without": bool(config.get("desc_act")),
        "its head is quantised too": bool(config.get("lm_head")),
        "its layers are quantised in different ways": bool(config.get("dynamic")),
    }
    for reason, holds in refused.items():
        if holds:
            raise UsageError(f"{folder}: {reason}")
    symmetric = bool(config.get("sym", True)) if method == "gptq" else not config.get("zero_point", True)
    return Packing(method, symmetric, zeros_less_one=layout.lower() == "gptq")


class PackedCheckpoint(StoredTensors):
    """Give the tensors of a packed checkpoint one by one."""

    def __init__(self, folder: Path, packing: Packing, device: str) -> None:
        """List the tensors; none is read yet.

        Raises:
            UsageError: There is no safetensors file, or one cannot be read.
        """
        super().__init__(folder, device)
        self._packing = packing

    def layer(self, name: str) -> "dict[str, torch.Tensor]":
        """Return `qweight`, `qzeros` and `scales` of a projection, zeros as they are.

        Raises:
            UsageError: One is missing, or its columns are reordered.
        """
        tensors = {kind: self.tensor(f"{name}.{kind}") for kind in ("qweight", "qzeros", "scales")}
        if self._packing.zeros_less_one:
            # A sum per word and not per code, as tools subtract: where they borrowed, this carries.
            tensors["qzeros"] = tensors["qzeros"] + ONES
        if f"{name}.g_idx" in self:
            self._check_order(name)
        return tensors

    def _check_order(self, name: str) -> None:
        import torch

        order = self.tensor(f"{name}.g_idx").long()
        in_order = torch.arange(order.numel(), device=order.device) // GROUP
        # Some tools save zeros where columns are in order.
        if order.any() and not torch.equal(order, in_order):
            raise UsageError(f"{name} in {self._folder} has its columns reordered")
