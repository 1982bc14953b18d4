"""The kernels of GPTQModel that a cell can ask for: what each needs, what it reads, and what it is known by.

Source: https://github.com/ModelCloud/GPTQModel, gptqmodel/nn_modules/qlinear and gptqmodel_ext, version 7.4.0.
"""

from dataclasses import dataclass

from memfloor.floor import projections
from memfloor.record import Cell

BITS, GROUP = 4, 128
DEVICE_TEXT = {"cpu": "CPU", "cuda": "CUDA GPU"}


@dataclass(frozen=True, slots=True)
class Kernel:
    """Describe one kernel and the layer that calls it.

    Attributes:
        module: Module of `gptqmodel.nn_modules.qlinear` that holds the layer.
        layer: Name of the layer's class.
        method: Layout of the checkpoints it reads: `gptq` or `awq`.
        symmetric: Whether every zero is 8, the middle of the codes.
        weights: Weight format of the catalogue that costs what a step reads.
        device: Kind of device it runs on.
        operators: By type of the activations, the operator that a step calls for each layer.
        extensions: By type, the operator library that GPTQModel compiles at first use; None where torch has it.
        reads: Tensors of a layer that a step reads.
        row_multiple: What the rows of a weight must be a multiple of.
        capability: Least compute capability.
        capturable: Whether its launches follow torch's current stream, as a CUDA Graph needs.
    """

    module: str
    layer: str
    method: str
    symmetric: bool
    weights: str
    device: str
    operators: dict[str, str]
    extensions: dict[str, str] | None
    reads: tuple[str, ...]
    row_multiple: int
    capability: tuple[int, int] | None = None
    capturable: bool = False


MARLIN_OPERATORS = {dtype: f"gptqmodel_marlin_{dtype}::gptq_marlin_gemm_{dtype}" for dtype in ("bf16", "fp16")}
MARLIN_EXTENSIONS = {dtype: f"marlin_{dtype}" for dtype in ("bf16", "fp16")}
ATEN_OPERATORS = {"bf16": "aten::_weight_int4pack_mm_for_cpu"}

KERNELS: dict[str, Kernel] = {
    "marlin-awq": Kernel(
        module="marlin_awq",
        layer="AwqMarlinLinear",
        method="awq",
        symmetric=False,
        weights="int4-g128-zp",
        device="cuda",
        operators=MARLIN_OPERATORS,
        extensions=MARLIN_EXTENSIONS,
        reads=("qweight", "scales", "qzeros"),
        row_multiple=64,
        capability=(8, 0),
        capturable=True,
    ),
    "marlin-gptq": Kernel(
        module="marlin",
        layer="MarlinLinear",
        method="gptq",
        symmetric=True,
        weights="int4-g128-sym",
        device="cuda",
        operators=MARLIN_OPERATORS,
        extensions=MARLIN_EXTENSIONS,
        reads=("qweight", "scales"),
        row_multiple=64,
        capability=(8, 0),
        capturable=True,
    ),
    "exllamav2": Kernel(
        module="exllamav2",
        layer="ExllamaV2Linear",
        method="gptq",
        symmetric=True,
        weights="int4-g128-zp",
        device="cuda",
        operators={"fp16": "gptqmodel_exllamav2::gemm_half_q_half"},
        extensions={"fp16": "exllamav2"},
        reads=("qweight", "scales", "qzeros"),
        row_multiple=32,
        capability=(7, 0),
        # q_gemm.cu launches on the legacy stream, which no capture records.
        capturable=False,
    ),
    "aten-awq": Kernel(
        module="torch_aten_kernel_awq",
        layer="TorchAtenAwqLinear",
        method="awq",
        symmetric=False,
        weights="int4-g128",
        device="cpu",
        operators=ATEN_OPERATORS,
        extensions=None,
        reads=("qweight", "scales_and_zeros"),
        row_multiple=16,
    ),
    "aten-gptq": Kernel(
        module="torch_aten_kernel",
        layer="TorchAtenLinear",
        method="gptq",
        symmetric=True,
        weights="int4-g128",
        device="cpu",
        operators=ATEN_OPERATORS,
        extensions=None,
        reads=("qweight", "scales_and_zeros"),
        row_multiple=16,
    ),
}


def kernel_reason(name: str, cell: Cell) -> str | None:
    """Say what a cell asks that a kernel lacks; None if it has everything."""
    return _cell_reason(name, cell) or _rows_reason(name, cell) or _capability_reason(name)


def _cell_reason(name: str, cell: Cell) -> str | None:
    kernel, workload = KERNELS[name], cell.workload
    types = tuple(kernel.operators)
    if cell.device != kernel.device:
        others = " or ".join(f"kernel={other}" for other, its in KERNELS.items() if its.device == cell.device)
        return f"kernel {name} needs a {DEVICE_TEXT[kernel.device]}; on a {DEVICE_TEXT[cell.device]}: {others}"
    if workload.weights != kernel.weights:
        return f"kernel {name} reads weights {kernel.weights}, not {workload.weights}"
    if workload.head not in types:
        return f"kernel {name} multiplies {' or '.join(types)}, not {workload.head}; --head {types[0]} --kv {types[0]}"
    return None


def _rows_reason(name: str, cell: Cell) -> str | None:
    multiple = KERNELS[name].row_multiple
    for projection, (rows, _) in projections(cell.spec).items():
        if rows % multiple:
            return f"kernel {name} needs rows in multiples of {multiple}, and {projection} has {rows}"
    return None


def _capability_reason(name: str) -> str | None:
    import torch

    least = KERNELS[name].capability
    found = torch.cuda.get_device_capability() if least else None
    if least is None or found is None or found >= least:
        return None
    return f"kernel {name} needs compute capability {_text(least)}, and this GPU has {_text(found)}"


def _text(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
