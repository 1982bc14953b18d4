"""A local checkpoint in EXL3, as ExLlamaV3's and GPTQModel's converters save it.

A layer is a `trellis` and the signs and scales of its columns and rows, `suh` and `svh`; one number more, `mcg` or
`mul1`, names a codebook other than the first. Heads are quantised too, as a rule in more bits.
Source: doc/exl3.md of https://github.com/turboderp-org/exllamav3
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from memfloor.errors import UsageError
from memfloor.runtimes.stored_quantization import stored_quantization
from memfloor.runtimes.stored_tensors import StoredTensors

if TYPE_CHECKING:
    import torch

METHOD, HEAD = "exl3", "lm_head"
# A trellis codes tiles of 16 by 16 weights.
TILE = 16
READ = ("trellis", "suh", "svh")
CODEBOOKS = ("mcg", "mul1")
FIRST_CODEBOOK = "3inst"


class Exl3Checkpoint(StoredTensors):
    """Give the tensors of an EXL3 checkpoint layer by layer."""

    def layer(self, name: str) -> "dict[str, torch.Tensor]":
        """Return the tensors of a layer: trellis, signs and scales, and what names its codebook.

        Raises:
            UsageError: One is missing, as in those of the first converters, which kept signs without scales.
        """
        named = [kind for kind in CODEBOOKS if f"{name}.{kind}" in self]
        return {kind: self.tensor(f"{name}.{kind}") for kind in (*READ, *named)}

    def bits(self, name: str) -> int:
        """Return the bits of a layer's weights.

        Raises:
            UsageError: It has no trellis.
        """
        return self.shape(f"{name}.trellis")[-1] // TILE

    @property
    def has_own_head(self) -> bool:
        """Tell whether the output head is quantised."""
        return f"{HEAD}.trellis" in self


def refuse_checkpoint(folder: str, layers: Iterable[str], bits: int) -> str | None:
    """Say why a checkpoint is not in EXL3 with so many bits in all of the layers; None if it is."""
    try:
        config = stored_quantization(folder)
        if config is None:
            return f"{folder} is not quantised, and to bring it into EXL3 takes a calibrated search"
        method = config.get("quant_method")
        if method != METHOD:
            return f"quant_method of {folder} is {method}, not {METHOD}"
        checkpoint = Exl3Checkpoint(Path(folder))
        found = {name: checkpoint.bits(name) for name in layers}
    except UsageError as error:
        return str(error)
    other = next((name for name, count in found.items() if count != bits), None)
    return None if other is None else f"{other} in {folder} has {found[other]} bits, not {bits}"


def codebook(tensors: "Iterable[str]") -> str:
    """Return the name of the codebook of a layer that holds tensors of such names."""
    return next((kind for kind in CODEBOOKS if kind in tensors), FIRST_CODEBOOK)
