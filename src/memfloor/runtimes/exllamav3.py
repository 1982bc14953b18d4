"""EXL3, the trellis-coded weights of ExLlamaV3, by the layer and the kernels of it that GPTQModel carries.

A trellis is what a long, calibrated search leaves, so no weight is rounded to one here: those of a checkpoint are read
as they are, and without one random trellises stand in, for every string of bits is one and costs the same bytes and
time. What random ones say of quality is nothing.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from memfloor.engine.tensors import expected_tensors
from memfloor.floor import projections
from memfloor.record import Cell
from memfloor.runtimes.exl3_checkpoint import HEAD, READ, TILE, Exl3Checkpoint, codebook, refuse_checkpoint
from memfloor.runtimes.gptq_operators import gptqmodel_module, load_operators
from memfloor.runtimes.gptqmodel import GptqModel
from memfloor.runtimes.hf_quantized import HfQuantized, projection_names
from memfloor.runtimes.library import Library

if TYPE_CHECKING:
    import torch

EXTENSION = "exllamav3"
BITS = {"exl3-4": 4}
# Signs are spread over blocks of this many rows and columns by a Hadamard transform.
BLOCK = 128
# Its table of launch shapes knows Ampere, Ada and Hopper.
CAPABILITIES = (8, 9)
# The codebook that GPTQModel quantises with unless told otherwise, its multiplier, and the spread of its values.
CODEBOOK, MULTIPLIER, SPREAD = "mcg", 0xCBAC1FED, 1.24


class ExllamaV3(HfQuantized):
    """Decode with EXL3 layers in place of every linear layer but the head, in float16."""

    name: ClassVar[str] = "exllamav3"
    summary: ClassVar[str] = "ExLlamaV3's EXL3 layers, as GPTQModel carries them, in a Hugging Face model: exl3-4"
    library: ClassVar[Library] = GptqModel.library
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(BITS, ("cuda",))
    types: ClassVar[tuple[str, ...]] = ("fp16",)
    products: ClassVar[Mapping[str, re.Pattern[str]]] = {"cuda": re.compile("gptqmodel_exllamav3::bc_linear_exl3_run")}
    reads_stored: ClassVar[bool] = True
    unpacks: ClassVar[re.Pattern[str]] = re.compile("gptqmodel_exllamav3::reconstruct")

    @classmethod
    def unavailable_reason(cls, cell: Cell | None = None) -> str | None:
        """Say why the library or the GPU is missing here, or not for this cell."""
        reason = super().unavailable_reason(cell)
        if reason is not None:
            return reason
        import torch

        return None if torch.cuda.is_available() else f"{cls.name} runs on a CUDA GPU alone, and torch sees none"

    @classmethod
    def refused_formats(cls, cell: Cell) -> str | None:
        """Say which format, shape or GPU the kernels are not for; None if they are for all."""
        return super().refused_formats(cell) or _refused_shape(cell) or _refused_capability()

    @classmethod
    def refused_checkpoint(cls, cell: Cell) -> str | None:
        """Say why a checkpoint is not one of EXL3 in the cell's bits; None if it is, or there is none."""
        if cell.weights_from is None:
            return None
        weights = (name for name in expected_tensors(cell.spec) if name.endswith("_proj.weight"))
        layers = [name.removesuffix(".weight") for name in weights]
        return refuse_checkpoint(cell.weights_from, layers, BITS[cell.workload.weights])

    def finish(self, model: Any) -> None:
        """Fill a model of the right shape from an EXL3 checkpoint."""
        cell = self.request.cell
        self._load_kernels()
        stored = Exl3Checkpoint(Path(str(cell.weights_from)), cell.device)
        unpacks_head = stored.has_own_head and not cell.spec.tie_word_embeddings
        stored.load_rest(model, without=(f"{HEAD}.weight",) if unpacks_head else ())
        if unpacks_head:
            head = model.get_output_embeddings()
            head.weight.copy_(unpacked(stored.layer(HEAD), *head.weight.shape))
        for name in projection_names(model):
            model.set_submodule(name, make_layer(model.get_submodule(name), stored.layer(name)))

    def quantize(self, model: Any) -> None:
        """Replace every projection by a layer of random trellises."""
        self._load_kernels()
        super().quantize(model)

    def quantize_linear(self, linear: "torch.nn.Linear") -> "torch.nn.Module":
        """Return an EXL3 layer of the shape, the bias and the spread of one of torch's."""
        import torch

        # Its own numbers seed it, so that layers differ and each is the same in every run.
        seed = self.request.seed + int(linear.weight.view(torch.int16).flatten()[:1024].long().sum())
        return make_layer(linear, random_tensors(linear.weight, BITS[self.request.cell.workload.weights], seed))

    def quantized_tensors(self, layer: Any) -> "Iterator[torch.Tensor]":
        """Yield the trellis and the signs and scales of columns and rows."""
        for name in READ:
            yield getattr(layer, name)

    def facts(self) -> dict[str, str]:
        """Return what the model says of itself, and what its weights are."""
        from importlib.metadata import version

        first = self.model.get_submodule(projection_names(self.model)[0])
        held = [name for name, _ in first.named_buffers()]
        return super().facts() | self._origin() | {"codebook": codebook(held), "gptqmodel": version("gptqmodel")}

    def _origin(self) -> dict[str, str]:
        """Return where weights are from, and what became of a head that is quantised there."""
        cell = self.request.cell
        if cell.weights_from is None:
            return {"quantised": "random trellises, which no weights were searched for"}
        stored = Exl3Checkpoint(Path(cell.weights_from))
        if not stored.has_own_head:
            return {"quantised": "EXL3 checkpoint"}
        source = "tied to the embedding" if cell.spec.tie_word_embeddings else f"unpacked from {stored.bits(HEAD)} bits"
        return {"quantised": "EXL3 checkpoint", "head": source}

    def _load_kernels(self) -> None:
        self.request.report(f"loading {EXTENSION}, which GPTQModel compiles the first time")
        load_operators(EXTENSION, prebuilt=False)


def make_layer(linear: "torch.nn.Linear", tensors: "dict[str, torch.Tensor]") -> "torch.nn.Module":
    """Return GPTQModel's EXL3 layer of some tensors with the shape and the bias of one of torch's.

    Raises:
        UsageError: GPTQModel does not load here.
    """
    if linear.bias is not None:
        tensors = tensors | {"bias": linear.bias.detach().clone()}
    layer: torch.nn.Module = gptqmodel_module("nn_modules.exllamav3").ExllamaV3Linear.from_tensors(
        in_features=linear.in_features, out_features=linear.out_features, name="", tensors=tensors
    )
    return layer.eval()


def unpacked(tensors: "dict[str, torch.Tensor]", rows: int, columns: int) -> "torch.Tensor":
    """Return the weights [rows, columns] of EXL3 tensors, by the library's reference in torch.

    Rows that pad the tensors to a multiple of 128 are left out.
    """
    padded = tensors["svh"].shape[0]
    reference = gptqmodel_module("nn_modules.exllamav3_torch").ExllamaV3TorchLinear.from_tensors(
        in_features=columns, out_features=padded, name="", tensors=tensors
    )
    weight: torch.Tensor = reference.get_weight_tensor().T[:rows]
    return weight


def random_tensors(weight: "torch.Tensor", bits: int, seed: int) -> "dict[str, torch.Tensor]":
    """Return the packed tensors of a random weight of the shape [N, K] and about the spread of a given one.

    Returns:
        `trellis`, int16 [K / 16, N / 16, 16 * bits]; `suh` [K], signs, and `svh` [N], signs times a scale, float16;
        `mcg`, int32 without dimensions, the multiplier that names the codebook. All on the weight's device.
    """
    import torch

    rows, columns = weight.shape
    generator = torch.Generator(weight.device).manual_seed(seed)

    def drawn(shape: tuple[int, ...], low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator, device=weight.device, dtype=torch.int16)

    scale = float(weight.detach().float().std()) / SPREAD
    return {
        "trellis": drawn((columns // TILE, rows // TILE, TILE * bits), -(2**15), 2**15),
        "suh": (drawn((columns,), 0, 2) * 2 - 1).half(),
        "svh": (drawn((rows,), 0, 2) * 2 - 1).half() * scale,
        CODEBOOK: torch.tensor(MULTIPLIER - 2**32, dtype=torch.int32, device=weight.device),
    }


def _refused_shape(cell: Cell) -> str | None:
    for name, shape in projections(cell.spec).items():
        if odd := [size for size in shape if size % BLOCK]:
            return f"EXL3 needs rows and columns in multiples of {BLOCK}, and {name} has {odd[0]}"
    return None


def _refused_capability() -> str | None:
    import torch

    major, minor = torch.cuda.get_device_capability()
    if major in CAPABILITIES:
        return None
    return f"GPTQModel's EXL3 kernels need compute capability 8.x or 9.x, and this GPU has {major}.{minor}"
