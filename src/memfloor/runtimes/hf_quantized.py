"""Hugging Face transformers with a library's quantised projections: made in 16 bits, then replaced one by one."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from memfloor.errors import UsageError
from memfloor.floor import projections, step_traffic
from memfloor.record import Cell, ObservedPath
from memfloor.runtimes.hf import HfEager
from memfloor.runtimes.hf_model import torch_dtype
from memfloor.runtimes.library import Library
from memfloor.runtimes.stored_quantization import stored_quantization
from memfloor.spec import ModelSpec, weight_format

if TYPE_CHECKING:
    import torch

# What torch multiplies by 16-bit weights with, as the dispatcher or Inductor's code calls it.
TORCH_PRODUCTS = re.compile(
    r"(aten::|extern_kernels\.)(mm|addmm|bmm|linear|matmul|mv)\b|mkldnn_linear|linear_pointwise"
)


class HfQuantized(HfEager):
    """Decode as `hf-eager` does, with a library's linear layers in place of every one but the head.

    The model is made in the head's 16-bit type, at random or from a checkpoint, and each layer is dropped when its
    successor is there, so that memory holds one layer twice at most. A subclass makes one layer (`quantize_linear`) or
    all (`quantize`), and names the operators by which the path that ran is told. Above a runtime that compiles, such as
    `HfCompile`, the same class compiles them.

    Attributes:
        library: What must be installed.
        formats: By weight format, the kinds of device the library multiplies by it on.
        types: Types of the head, the activations and the KV cache.
        products: By kind of device, operators that multiply by quantised weights as they lie in memory.
        unpacks: Operators that write 16-bit weights, which a product of torch then reads.
        reads_stored: Whether `finish` itself reads a checkpoint that was stored quantised, into a model without one;
            otherwise transformers reads it.
        torch_products: Operators of torch that may multiply by those.
    """

    library: ClassVar[Library]
    formats: ClassVar[Mapping[str, tuple[str, ...]]]
    types: ClassVar[tuple[str, ...]] = ("bf16",)
    products: ClassVar[Mapping[str, re.Pattern[str]]]
    unpacks: ClassVar[re.Pattern[str]]
    reads_stored: ClassVar[bool] = False
    torch_products: ClassVar[re.Pattern[str]] = TORCH_PRODUCTS

    @classmethod
    def unavailable_reason(cls, cell: Cell | None = None) -> str | None:
        """Say why transformers or the library cannot run here, or not this cell."""
        reason = super().unavailable_reason(cell) or cls.library.reason()
        if reason is not None or cell is None:
            return reason
        return cls.library_refuses(cell)

    @classmethod
    def library_refuses(cls, cell: Cell) -> str | None:
        """Say what the library itself, which loads, has no path for; None if it has one."""
        return None

    @classmethod
    def refused_formats(cls, cell: Cell) -> str | None:
        """Say which format of a cell the library has no path for; None if it has one for all."""
        weights, head, kv = cell.workload.weights, cell.workload.head, cell.workload.kv
        if weights not in cls.formats:
            return f"{cls.name} runs weights {', '.join(cls.formats)}, not {weights}"
        if cell.device not in cls.formats[weights]:
            return f"{cls.name} runs weights {weights} on {', '.join(cls.formats[weights])}, not on {cell.device}"
        if head not in cls.types:
            return f"{cls.name} keeps the head in {', '.join(cls.types)}, not {head}; --head {cls.types[0]}"
        if kv != head:
            return f"{cls.name} keeps the KV cache in the head's type {head}, not {kv}; --kv {head}"
        return _refused_group(cell.spec, weights)

    def loaded_cell(self) -> Cell:
        """Return the cell with its weights in the type in which they are loaded, and no checkpoint read later."""
        cell, weights_from = self.request.cell, self.request.cell.weights_from
        if stored_quantization(weights_from):
            if not self.reads_stored:
                return cell
            weights_from = None
        workload = cell.workload.model_copy(update={"weights": cell.workload.head})
        return cell.model_copy(update={"workload": workload, "weights_from": weights_from})

    def make_model(self) -> Any:
        """Return the model with quantised projections, whose bytes are those of the weight format.

        Raises:
            UsageError: The library holds other bytes than the format says, or has quantised the head too.
        """
        import torch

        model = super().make_model()
        with torch.no_grad():
            if stored_quantization(self.request.cell.weights_from):
                self.finish(model)
            else:
                self.quantize(model)
        self._check(model)
        return model.eval()

    def finish(self, model: Any) -> None:
        """Make a model that was stored quantised ready to decode."""

    def quantize(self, model: Any) -> None:
        """Replace every projection in place; where a library wants whole models, override this."""
        for name in projection_names(model):
            # Nothing but the model may keep a layer alive.
            model.set_submodule(name, self.quantize_linear(model.get_submodule(name)))

    def quantize_linear(self, linear: "torch.nn.Linear") -> "torch.nn.Module":
        """Return the library's layer for one of torch's, on the same device."""
        raise NotImplementedError

    def quantized_tensors(self, layer: "torch.nn.Module") -> "Iterator[torch.Tensor]":
        """Yield what one projection holds beside its bias: codes, scales, zeros."""
        for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
            if name != "bias":
                yield tensor

    def observed_path(self) -> ObservedPath:
        """Take one more step as the runtime below does, and say whose products it ran."""
        path = super().observed_path()
        calls = {name: _calls(path.operators, pattern) for name, pattern in self._patterns().items()}
        taken = path_taken(len(projection_names(self.model)), **calls)
        return path.model_copy(update={"facts": path.facts | {"path": taken}})

    def _patterns(self) -> dict[str, re.Pattern[str]]:
        own = self.products[self.request.cell.device]
        return {"own": own, "unpacks": self.unpacks, "torch_products": self.torch_products}

    def facts(self) -> dict[str, str]:
        """Return what the model says of itself, and what its projections are."""
        layer = self.model.get_submodule(projection_names(self.model)[0])
        return super().facts() | {
            "projections": type(layer).__name__,
            "projection_bytes": str(self._held_bytes(self.model)),
        }

    def _held_bytes(self, model: Any) -> int:
        layers = (model.get_submodule(name) for name in projection_names(model))
        return sum(tensor.nbytes for layer in layers for tensor in self.quantized_tensors(layer))

    def _check(self, model: Any) -> None:
        cell = self.request.cell
        traffic = step_traffic(cell.spec, cell.workload, "blocks")
        held, expected = self._held_bytes(model), traffic.attention_weights + traffic.mlp_weights + traffic.scales
        if held != expected:
            raise UsageError(
                f"{self.name} holds {held} bytes of projections, where {cell.workload.weights} says {expected}: "
                "this version, or this checkpoint, stores them in another way"
            )
        head = model.get_output_embeddings().weight.dtype
        if head != torch_dtype(cell.workload.head):
            raise UsageError(f"the head of {cell.weights_from} is {head}, not {cell.workload.head}")


def projection_names(model: Any) -> list[str]:
    """Return the names of the linear layers of all decoder blocks, replaced or not."""
    return [name for name, _ in model.named_modules() if name.endswith("_proj")]


def path_taken(
    layers: int, own: Mapping[str, int], unpacks: Mapping[str, int], torch_products: Mapping[str, int]
) -> str:
    """Say whose products multiplied the projections, from the operators of one step.

    Args:
        layers: Projections of the model; the head is one more product of torch's.
        own: Calls of each operator that multiplies by quantised weights as they lie in memory.
        unpacks: Calls of those that write 16-bit weights.
        torch_products: Calls of torch's products.

    Returns:
        `own product: …` where quantised weights were read as they lie in memory; `unpacked: …` where 16-bit weights
        were written and read again; `mixed: …` where some were; `unseen` where nothing shows, for a library need not
        go through torch's dispatcher.
    """
    beside_head = sum(torch_products.values()) - 1
    if unpacks or beside_head >= layers:
        return f"unpacked: {_text({**unpacks, **torch_products})}, {layers} projections and the head"
    if sum(own.values()) >= layers:
        return f"own product: {_text(own)}, {layers} projections"
    if own or beside_head > 0:
        return f"mixed: {_text({**own, **torch_products})}, {layers} projections and the head"
    return f"unseen: torch's dispatcher shows no product of the {layers} projections"


def _calls(operators: Mapping[str, int], pattern: re.Pattern[str]) -> dict[str, int]:
    return {name: calls for name, calls in operators.items() if pattern.search(name)}


def _text(calls: Mapping[str, int]) -> str:
    return ", ".join(f"{name} x{count}" for name, count in sorted(calls.items())) or "no operator"


def _refused_group(spec: ModelSpec, weights: str) -> str | None:
    group = weight_format(weights).group_size
    for name, (_, columns) in projections(spec).items():
        if group and columns % group:
            return f"groups of {group} weights, as in {weights}, do not divide the {columns} columns of {name}"
    return None
