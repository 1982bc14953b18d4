"""AWQ and GPTQ through GPTQModel, which succeeded AutoAWQ and AutoGPTQ: 4 bits in groups of 128, by a kernel of choice.

The library's own selection of a kernel is not used: a layer of the class that was asked for is built and filled, and
the operators of a step say whether it ran. Weights are rounded to nearest in place, or read from a packed checkpoint.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from memfloor.errors import UsageError
from memfloor.record import Cell, ObservedPath
from memfloor.runtimes.gptq_checkpoint import PackedCheckpoint, read_packing
from memfloor.runtimes.gptq_kernels import BITS, GROUP, KERNELS, Kernel, kernel_reason
from memfloor.runtimes.gptq_operators import extension_name, gptqmodel_module, load_operators, operators_reason
from memfloor.runtimes.gptq_packing import pack, round_to_nearest
from memfloor.runtimes.hf_quantized import HfQuantized, projection_names
from memfloor.runtimes.hf_static import HfStatic
from memfloor.runtimes.library import Library

if TYPE_CHECKING:
    import torch

DEFAULT_KERNEL = "marlin-awq"
OPERATORS = ("jit", "prebuilt")
# What the library imports. It is not imported to find out: that sets variables of torch's allocator, which the runs of
# other runtimes would inherit, and patches transformers, safetensors and triton.
IMPORTED = (
    "gptqmodel", "accelerate", "defuser", "device_smi", "dill", "logbar", "pcre", "requests", "threadpoolctl",
    "tokenicer", "torchvision",
)  # fmt: skip


class GptqModel(HfQuantized):
    """Decode as `hf-eager` does, with GPTQModel's layers.

    Options: `kernel`, see gptq_kernels.py; `operators` = jit (compiled by the library at first use, which takes
    minutes, and kept in its cache) or prebuilt (see gptq_operators.py).
    """

    name: ClassVar[str] = "gptqmodel"
    summary: ClassVar[str] = "GPTQModel: AWQ and GPTQ with Marlin or ExLlamaV2 kernels on a GPU, ATen's int4 on a CPU"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **HfQuantized.options,
        "kernel": tuple(KERNELS),
        "operators": OPERATORS,
    }
    library: ClassVar[Library] = Library("gptqmodel", "gptq", (7, 4), (7, 5), only_found=IMPORTED)
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {
        form: tuple(sorted({kernel.device for kernel in KERNELS.values() if kernel.weights == form}))
        for form in sorted({kernel.weights for kernel in KERNELS.values()})
    }
    types: ClassVar[tuple[str, ...]] = ("bf16", "fp16")
    products: ClassVar[Mapping[str, re.Pattern[str]]] = {
        "cuda": re.compile(r"gptq_marlin_gemm|gemm_half_q_half"),
        "cpu": re.compile(r"_weight_int4pack_mm_for_cpu"),
    }
    reads_stored: ClassVar[bool] = True
    # No layer of these writes 16-bit weights in operators of its own: torch's products give it away.
    unpacks: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")

    @classmethod
    def refused_formats(cls, cell: Cell) -> str | None:
        """Say which format or shape of a cell its kernel has no path for; None if it has one for all."""
        return super().refused_formats(cell) or kernel_reason(kernel_name(cell), cell)

    @classmethod
    def refused_checkpoint(cls, cell: Cell) -> str | None:
        """Say why the checkpoint of a cell, packed or not, is none for its kernel; None if it is one."""
        try:
            packing = read_packing(cell.weights_from)
        except UsageError as error:
            return str(error)
        name = kernel_name(cell)
        if packing is not None and packing.method != KERNELS[name].method:
            return f"{cell.weights_from} is packed for {packing.method}, and kernel {name} reads {KERNELS[name].method}"
        if packing is not None and KERNELS[name].layer == "MarlinLinear" and not packing.symmetric:
            return f"{cell.weights_from} has zeros of its own, and kernel {name} reads symmetric weights"
        return None

    @classmethod
    def library_refuses(cls, cell: Cell) -> str | None:
        """Say which operators the kernel lacks; None if it has them, or compiles them."""
        return operators_reason(kernel_name(cell), cell.workload.head) if _is_prebuilt(cell) else None

    @property
    def kernel(self) -> Kernel:
        """Return the kernel that the cell asks for."""
        return KERNELS[kernel_name(self.request.cell)]

    def finish(self, model: Any) -> None:
        """Fill a model of the right shape from a packed checkpoint."""
        cell = self.request.cell
        packing = read_packing(cell.weights_from)
        assert packing is not None
        self._load_operators()
        packed = PackedCheckpoint(Path(str(cell.weights_from)), packing, cell.device)
        packed.load_rest(model)
        for name in projection_names(model):
            model.set_submodule(name, make_layer(self.kernel, model.get_submodule(name), packed.layer(name)))
        self._lay_out(model)

    def quantize(self, model: Any) -> None:
        """Replace every projection by one that was rounded from it."""
        self._load_operators()
        super().quantize(model)
        self._lay_out(model)

    def quantize_linear(self, linear: "torch.nn.Linear") -> "torch.nn.Module":
        """Return a layer of the kernel's class, rounded from one of torch's."""
        rounded = round_to_nearest(linear.weight, GROUP, self.kernel.symmetric)
        return make_layer(self.kernel, linear, pack(rounded, self.kernel.method))

    def quantized_tensors(self, layer: "torch.nn.Module") -> "Iterator[torch.Tensor]":
        """Yield what the kernel reads of one projection; indices of an order and copies beside it are not."""
        for name in self.kernel.reads:
            yield getattr(layer, name)

    def observed_path(self) -> ObservedPath:
        """Take one more step, and say whether the kernel asked for multiplied every projection."""
        path = super().observed_path()
        operator = self.kernel.operators[self.request.cell.workload.head]
        calls, layers = path.operators.get(operator, 0), len(projection_names(self.model))
        if calls == layers:
            return path
        seen = f"not {kernel_name(self.request.cell)}, {operator} x{calls} for {layers} projections"
        return path.model_copy(update={"facts": path.facts | {"path": f"{seen}; {path.facts['path']}"}})

    def facts(self) -> dict[str, str]:
        """Return what the model says of itself, and which kernel was asked for."""
        from importlib.metadata import version

        weights = (
            "packed checkpoint"
            if read_packing(self.request.cell.weights_from)
            else "rounded to nearest, no calibration"
        )
        asked = {"kernel": kernel_name(self.request.cell), "gptqmodel": version("gptqmodel"), "quantised": weights}
        return super().facts() | asked

    def _lay_out(self, model: Any) -> None:
        # Some layers lay their tensors out for the kernel here, others at their first call, which is no part of a step.
        gptqmodel_module("utils.model").hf_gptqmodel_post_init(model, use_act_order=False)
        for name in projection_names(model):
            _call_once(model.get_submodule(name), model.dtype, self.request.cell.device)

    def _load_operators(self) -> None:
        cell = self.request.cell
        extension = extension_name(self.kernel, cell.workload.head)
        if extension is not None:
            self.request.report(f"loading {extension}, which GPTQModel compiles the first time")
            load_operators(extension, prebuilt=_is_prebuilt(cell))


class GptqModelStatic(GptqModel, HfStatic):
    """Decode as `gptqmodel` does, over the static cache of `hf-static`; `launch=graph` replays one CUDA Graph."""

    name: ClassVar[str] = "gptqmodel-static"
    summary: ClassVar[str] = "GPTQModel over a static cache; launch=graph replays one CUDA Graph"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {**HfStatic.options, **GptqModel.options}

    @classmethod
    def library_refuses(cls, cell: Cell) -> str | None:
        """Say what the kernel lacks, a capture by CUDA Graphs included; None if it lacks nothing."""
        name = kernel_name(cell)
        if cell.options.get("launch") == "graph" and not KERNELS[name].capturable:
            return f"kernel {name} launches on the default stream, which no CUDA Graph captures; launch=eager"
        return super().library_refuses(cell)


def kernel_name(cell: Cell) -> str:
    """Return the kernel that a cell asks for."""
    return cell.options.get("kernel", DEFAULT_KERNEL)


def _is_prebuilt(cell: Cell) -> bool:
    return cell.options.get("operators", OPERATORS[0]) == "prebuilt"


def make_layer(kernel: Kernel, linear: "torch.nn.Linear", tensors: "Mapping[str, torch.Tensor]") -> "torch.nn.Module":
    """Return a layer of a kernel's class that holds packed tensors and the bias of one of torch's.

    Raises:
        UsageError: A tensor has another shape than the layer's.
    """
    import torch

    layer_class = getattr(gptqmodel_module(f"nn_modules.qlinear.{kernel.module}"), kernel.layer)
    with torch.device(linear.weight.device):
        layer: torch.nn.Module = layer_class(
            bits=BITS,
            group_size=GROUP,
            sym=kernel.symmetric,
            desc_act=False,
            in_features=linear.in_features,
            out_features=linear.out_features,
            bias=linear.bias is not None,
            register_buffers=True,
            dtype=linear.weight.dtype,
        )
    for name, tensor in tensors.items():
        _put(layer, name, tensor.to(linear.weight.dtype) if tensor.is_floating_point() else tensor)
    if linear.bias is not None:
        _put(layer, "bias", linear.bias.detach().clone())
    if kernel.layer == "ExllamaV2Linear":
        # With any other index it takes the slower branch for reordered columns.
        _put(layer, "g_idx", torch.zeros(linear.in_features, dtype=torch.int32, device=linear.weight.device))
    return layer.eval()


def _put(layer: "torch.nn.Module", name: str, tensor: "torch.Tensor") -> None:
    import torch

    held = getattr(layer, name)
    if held.shape != tensor.shape:
        raise UsageError(f"{type(layer).__name__} holds {name} as {list(held.shape)}, not {list(tensor.shape)}")
    is_parameter = isinstance(held, torch.nn.Parameter)
    setattr(layer, name, torch.nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor)


def _call_once(layer: Any, dtype: "torch.dtype", device: str) -> None:
    import torch

    layer(torch.zeros(1, layer.in_features, dtype=dtype, device=device))
