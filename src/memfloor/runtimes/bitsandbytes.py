"""bitsandbytes: NF4 and LLM.int8() layers in a Hugging Face model, eager."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from memfloor.floor import projections
from memfloor.record import Cell
from memfloor.runtimes.hf import HfEager
from memfloor.runtimes.hf_quantized import HfQuantized, projection_names
from memfloor.runtimes.library import Library
from memfloor.runtimes.stored_quantization import stored_quantization

if TYPE_CHECKING:
    import torch

# The library's layout for AVX512-BF16, which it makes at the first product: rows in blocks, and its double-quantised
# scales written out as bf16.
PACKED, DOUBLE_QUANTISED = "nf4-g64", "nf4"
PACKED_ROWS = 32
# That of transformers' BitsAndBytesConfig; 0 leaves outliers among the rest.
THRESHOLDS = ("6", "0")


class Bitsandbytes(HfQuantized):
    """Decode with `Linear4bit` or `Linear8bitLt` in place of every linear layer but the head.

    Option `threshold`, for int8 alone: the size from which a column of activations is multiplied in 16 bits, with
    kernels of its own. Steps then differ in their kernels, and two traces of one cell too, so that its ledger is
    refused; with threshold=0 there are no such columns.
    """

    name: ClassVar[str] = "bitsandbytes"
    summary: ClassVar[str] = "bitsandbytes in a Hugging Face model: NF4 (nf4; on CPUs with AVX512-BF16 nf4-g64), int8"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {**HfEager.options, "threshold": THRESHOLDS}
    library = Library("bitsandbytes", extra="bitsandbytes", at_least=(0, 50), below=(0, 51))
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "nf4": ("cpu", "cuda"),
        "nf4-g64": ("cpu",),
        "int8": ("cpu", "cuda"),
    }
    looked_into: ClassVar[tuple[str, ...]] = ("bitsandbytes",)
    products: ClassVar[Mapping[str, re.Pattern[str]]] = {
        "cpu": re.compile(r"bitsandbytes::gemv_4bit|aten::_int_mm"),
        "cuda": re.compile(r"bitsandbytes::(gemm_4bit|gemv_4bit|int8_linear_matmul)"),
    }
    unpacks = re.compile(r"bitsandbytes::dequantize_4bit")
    # addmm adds the columns of outliers alone.
    torch_products = re.compile(r"aten::(mm|linear|matmul)\b")

    @classmethod
    def refused_formats(cls, cell: Cell) -> str | None:
        """Say which format or option of a cell the library has no path for; None if it has one for all."""
        if "threshold" in cell.options and cell.workload.weights != "int8":
            return f"threshold belongs to weights int8, not to {cell.workload.weights}"
        return super().refused_formats(cell)

    @classmethod
    def library_refuses(cls, cell: Cell) -> str | None:
        """Say which layout of NF4 this processor has no path for."""
        weights, packs = cell.workload.weights, cell.device == "cpu" and _packs()
        if weights == DOUBLE_QUANTISED and packs:
            return f"bitsandbytes turns {weights} into {PACKED} on a CPU with AVX512-BF16; --weights {PACKED}"
        if weights == PACKED and not packs:
            return f"bitsandbytes makes {weights} on a CPU with AVX512-BF16 alone; --weights {DOUBLE_QUANTISED}"
        rows = {name: shape[0] for name, shape in projections(cell.spec).items() if shape[0] % PACKED_ROWS}
        if weights == PACKED and rows:
            return (
                f"bitsandbytes packs blocks of {PACKED_ROWS} rows; {next(iter(rows))} has {next(iter(rows.values()))}"
            )
        return None

    @classmethod
    def refused_checkpoint(cls, cell: Cell) -> str | None:
        """Say why the checkpoint of a cell, quantised by this library or not at all, does not hold its weights."""
        stored = stored_quantization(cell.weights_from)
        if stored is None or stored.get("quant_method") != "bitsandbytes":
            return super().refused_checkpoint(cell)
        found = "int8" if stored.get("load_in_8bit") else str(stored.get("bnb_4bit_quant_type"))
        asked = cell.workload.weights.partition("-")[0]
        return None if found == asked else f"{cell.weights_from} holds weights {found}, not {asked}"

    def finish(self, model: Any) -> None:
        """Pack what the library has loaded, and give int8 layers the threshold that was asked for."""
        for name in projection_names(model):
            layer = model.get_submodule(name)
            if hasattr(layer, "state"):
                layer.state.threshold = float(self._threshold())
            self._use_once(layer)

    def quantize_linear(self, linear: "torch.nn.Linear") -> "torch.nn.Module":
        """Return the library's layer for one of torch's, quantised and, on a CPU, packed."""
        layer: torch.nn.Module = self._layer(linear)
        layer.bias = linear.bias
        self._use_once(layer)
        return layer

    def quantized_tensors(self, layer: Any) -> "Iterator[torch.Tensor]":
        """Yield the codes and scales of one projection.

        Left out are the tables of codes and, where scales are double-quantised, one offset: 4 bytes and at most 1088
        in tables a matrix.
        """
        yield layer.weight.data
        if self.request.cell.workload.weights == "int8":
            yield layer.state.SCB
            return
        yield layer.weight.quant_state.absmax
        if layer.weight.quant_state.nested:
            yield layer.weight.quant_state.state2.absmax

    def facts(self) -> dict[str, str]:
        """Return what the model says of itself, and where a CPU's product comes from."""
        facts = super().facts()
        if self.request.cell.workload.weights == "int8":
            return facts | {"threshold": self._threshold()}
        return facts | ({"cpu_kernel": _cpu_kernel()} if self.request.cell.device == "cpu" else {})

    def _use_once(self, layer: Any) -> None:
        import torch

        layer.eval()
        # Packs the weights of a CPU, and tells int8 layers where their scales are.
        layer(torch.zeros(1, 1, layer.in_features, dtype=torch.bfloat16, device=layer.weight.device))

    def _threshold(self) -> str:
        return self.request.cell.options.get("threshold", THRESHOLDS[0])

    def _layer(self, linear: "torch.nn.Linear") -> Any:
        import torch
        from bitsandbytes import nn

        shape, device = (linear.in_features, linear.out_features, linear.bias is not None), linear.weight.device
        if self.request.cell.workload.weights == "int8":
            layer = nn.Linear8bitLt(*shape, has_fp16_weights=False, threshold=float(self._threshold()), device="meta")
            # It quantises what comes from a CPU alone.
            weight = nn.Int8Params(linear.weight.data.cpu(), requires_grad=False, has_fp16_weights=False)
        else:
            layer = nn.Linear4bit(*shape, compute_dtype=torch.bfloat16, quant_type="nf4", device="meta")
            weight = nn.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=layer)
        layer.weight = weight.to(device)
        return layer


def _packs() -> bool:
    from bitsandbytes.functional import has_avx512bf16

    return bool(has_avx512bf16())


def _cpu_kernel() -> str:
    from bitsandbytes.backends.cpu import ops

    # With the package `kernels` and a network the library fetches another one when it is imported.
    fetched = getattr(ops, "gemm_4bit_forward_kernel", None) is not None
    return "fetched from kernels-community" if fetched else "bitsandbytes' own"
