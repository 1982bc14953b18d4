"""torchao: weight-only int8, int4 and fp8 in a Hugging Face model, eager, or compiled as torchao is meant to be run."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from memfloor.floor import projections
from memfloor.record import Cell
from memfloor.runtimes.hf_compile import HfCompile
from memfloor.runtimes.hf_quantized import HfQuantized, projection_names
from memfloor.runtimes.library import Library

if TYPE_CHECKING:
    import torch

GROUP = 128
# Rows that torch's int4 products pack together, by kind of device.
PACKED_ROWS = {"cpu": 16, "cuda": 8}
INT4_CAPABILITY = 8


class Torchao(HfQuantized):
    """Decode with torchao's weights in place of those of every linear layer but the head, operator by operator.

    Without torch.compile int8 and fp8 weights are written out in 16 bits before each product, as torchao does it.
    """

    name: ClassVar[str] = "torchao"
    summary: ClassVar[str] = "torchao weight-only int8, int4 and fp8 in a Hugging Face model, eager"
    library: ClassVar[Library] = Library("torchao", extra="torchao", at_least=(0, 18), below=(0, 19))
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "int8": ("cpu", "cuda"),
        "int4-g128": ("cpu",),
        "int4-g128-k1024": ("cuda",),
        "fp8": ("cpu", "cuda"),
    }
    products: ClassVar[Mapping[str, re.Pattern[str]]] = {
        "cpu": re.compile(r"_weight_int[48]pack_mm|int4mm_packed_weight_cpu"),
        # Inductor multiplies by a single row, and casts, in a kernel that it writes.
        "cuda": re.compile(r"_weight_int[48]pack_mm|triton_\w*_mm(_|\b)"),
    }
    # None has a name of its own: weights are cast, and torch's product follows.
    unpacks: ClassVar[re.Pattern[str]] = re.compile(r"torchao::dequantize")

    @classmethod
    def library_refuses(cls, cell: Cell) -> str | None:
        """Say what torch's int4 products lack for a cell."""
        import torch

        if not cell.workload.weights.startswith("int4"):
            return None
        if cell.device == "cuda" and torch.cuda.get_device_capability()[0] < INT4_CAPABILITY:
            return f"torch's int4 product needs a GPU of compute capability {INT4_CAPABILITY}.0 or later"
        packed = PACKED_ROWS[cell.device]
        for name, (rows, _) in projections(cell.spec).items():
            if rows % packed:
                return f"torch's int4 product packs {packed} rows; {name} has {rows}"
        return None

    def quantize_linear(self, linear: "torch.nn.Linear") -> "torch.nn.Module":
        """Return the same layer with torchao's weight."""
        from torchao.quantization import quantize_

        quantize_(linear, self._config())
        return linear

    def quantized_tensors(self, layer: Any) -> "Iterator[torch.Tensor]":
        """Yield the codes, scales and zeros of one projection."""
        for name in layer.weight.tensor_data_names:
            yield getattr(layer.weight, name)

    def facts(self) -> dict[str, str]:
        """Return what the model says of itself, and what its weights are."""
        first = self.model.get_submodule(projection_names(self.model)[0])
        return super().facts() | {"projections": type(first.weight).__name__}

    def _config(self) -> Any:
        from torchao import quantization
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        weights, compiled = self.request.cell.workload.weights, isinstance(self, HfCompile)
        if weights == "int8":
            return quantization.Int8WeightOnlyConfig(set_inductor_config=compiled)
        if weights == "fp8":
            return quantization.Float8WeightOnlyConfig(set_inductor_config=compiled)
        if weights == "int4-g128":
            return PrototypeInt4WeightOnlyConfig(group_size=GROUP, set_inductor_config=compiled)
        return quantization.Int4WeightOnlyConfig(
            group_size=GROUP, int4_packing_format="tile_packed_to_4d", set_inductor_config=compiled
        )


class TorchaoCompile(Torchao, HfCompile):
    """Decode with the same weights in the compiled step of `hf-compile`, under torchao's own settings of Inductor."""

    name: ClassVar[str] = "torchao-compile"
    summary: ClassVar[str] = "torchao weight-only int8, int4 and fp8, static cache, torch.compile as one graph"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = HfCompile.options
