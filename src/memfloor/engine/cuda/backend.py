"""What the engine can decode on a CUDA GPU, and the model of a cell on it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfloor.engine.cuda.default_shapes import refuse_model, refuse_short_row
from memfloor.engine.random_tensors import random_prompt
from memfloor.engine.rope import rope_reason
from memfloor.errors import UsageError
from memfloor.record import Cell

if TYPE_CHECKING:
    from memfloor.engine.cuda.launch_shapes import LaunchShapes
    from memfloor.engine.cuda.model import DecodeModel
    from memfloor.engine.cuda.weights import ModelWeights

# The oldest compute capability with bf16 arithmetic, and the first with programmatic dependent launch.
BF16_CAPABILITY, PDL_CAPABILITY = (8, 0), (9, 0)
# The first that converts e4m3 in an instruction.
FP8_CAPABILITY = (8, 9)
KV_FORMATS = ("bf16", "fp8")
# The oldest release whose compiler builds every kernel.
OLDEST_TRITON = (3, 6)
OPTIONS = {"pdl": ("preload", "flags", "off"), "shapes": ("default", "tuned")}


def machine_reason() -> str | None:
    """Say why no cell can be decoded on this machine's GPU; None if some can."""
    reason = library_reason()
    if reason is not None:
        return reason
    import torch

    if not torch.cuda.is_available():
        return "no CUDA GPU is visible to torch; the engine's Triton kernels need one"
    capability = torch.cuda.get_device_capability()
    if capability < BF16_CAPABILITY:
        return f"the GPU's compute capability {capability[0]}.{capability[1]} is below 8.0, the first with bf16"
    return None


def library_reason() -> str | None:
    """Say why no kernel can be compiled for a GPU with what is installed; None if it can."""
    try:
        import torch  # noqa: F401
        import triton
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed; pip install 'memfloor[torch]' triton"
    except ImportError as error:
        return f"{error.name or 'a library'} is installed and cannot be imported: {error}; reinstall torch and triton"
    found = tuple(map(int, re.findall(r"\d+", triton.__version__)[:2]))
    if found < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return f"triton {triton.__version__} is older than {oldest}; pip install 'triton>={oldest}'"
    return None


def cell_reason(cell: Cell) -> str | None:
    """Say why this cell cannot be decoded; None if it can."""
    spec, workload = cell.spec, cell.workload
    refused = {
        f"batch {workload.batch} is not 1": workload.batch != 1,
        f"KV format {workload.kv} is not {' or '.join(KV_FORMATS)}": workload.kv not in KV_FORMATS,
        "biases in the MLP are not supported": spec.mlp_bias,
        f"head_dim {spec.head_dim} is not a power of two": spec.head_dim & (spec.head_dim - 1) != 0,
    }
    reasons = [reason for reason, holds in refused.items() if holds]
    if reasons:
        return reasons[0]
    found = (refuse_model(spec), _format_reason(cell), _kv_reason(cell), _pdl_reason(cell), _shapes_reason(cell))
    return next(filter(None, found), None) or rope_reason(spec)


def build(cell: Cell, start_len: int, max_len: int, seed: int, report: Callable[[str], None]) -> "DecodeModel":
    """Return the model of a cell on the current GPU, its cache filled at random or by a prompt of random tokens.

    Args:
        cell: What is decoded.
        start_len: Slots of the cache that are filled.
        max_len: Slots of the cache.
        seed: Of random weights and of the cache.
        report: Told what is being loaded.
    """
    import torch

    from memfloor.engine.cuda.kv_cache import fill_cache
    from memfloor.engine.cuda.model import DecodeModel

    report("loading weights")
    device = torch.device("cuda", torch.cuda.current_device())
    shapes = launch_shapes(cell)
    weights, pdl = _load_weights(cell, device, seed), pdl_mode(cell)
    model = DecodeModel(cell.spec, weights, max_len, shapes, pdl, cell.workload.kv)
    report("filling the KV cache")
    if cell.prefill:
        model.prefill(random_prompt(cell.spec.vocab_size, start_len, seed)[0].tolist())
    else:
        fill_cache(model.cache, start_len, seed)
    return model


def launch_shapes(cell: Cell) -> "LaunchShapes":
    """Return the launch shapes of a cell on the current GPU: the defaults, or with shapes=tuned those of the cache.

    Raises:
        UsageError: None were tuned for this device, model, formats and triton, or their file is damaged.
    """
    import torch
    import triton

    from memfloor.engine.cuda.default_shapes import default_shapes
    from memfloor.engine.cuda.tuning import TunedOn, load_shapes

    spec, workload = cell.spec, cell.workload
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    if not _is_tuned(cell):
        return default_shapes(spec, properties.multi_processor_count, workload.weights, workload.head, workload.kv)
    tuned = load_shapes(TunedOn.of(spec, workload, properties, triton.__version__))
    if tuned is None:
        raise UsageError(
            f"no launch shapes were tuned for {spec.name} on {properties.name} with triton {triton.__version__} and "
            f"these kernels; run memfloor tune {spec.name} --weights {workload.weights} --head {workload.head} "
            f"--kv {workload.kv}"
        )
    return tuned


def _is_tuned(cell: Cell) -> bool:
    return cell.options.get("shapes", "default") == "tuned"


def _shapes_reason(cell: Cell) -> str | None:
    if not _is_tuned(cell):
        return None
    try:
        launch_shapes(cell)
    except UsageError as reason:
        return str(reason)
    return None


def _format_reason(cell: Cell) -> str | None:
    from memfloor.engine.cuda.matrix import FORMATS, refuse_columns
    from memfloor.floor import projections

    used = {cell.workload.head: {cell.spec.hidden_size}}
    used.setdefault(cell.workload.weights, set()).update(shape[1] for shape in projections(cell.spec).values())
    for name, columns in used.items():
        if name not in FORMATS:
            return f"weight format {name} is not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        problems = [refuse(name, count) for count in sorted(columns) for refuse in (refuse_columns, refuse_short_row)]
        if any(problems):
            return next(filter(None, problems))
    return None


def _kv_reason(cell: Cell) -> str | None:
    import torch

    if cell.workload.kv != "fp8" or torch.cuda.get_device_capability() >= FP8_CAPABILITY:
        return None
    return "an fp8 KV cache needs compute capability 8.9"


def pdl_mode(cell: Cell) -> int:
    """Return a cell's mode of programmatic dependent launch on the current GPU, as `kernels.dependency` has it."""
    from memfloor.engine.kernels.dependency import MODES

    return MODES[_pdl(cell)]


def _pdl(cell: Cell) -> str:
    import torch

    default = "preload" if torch.cuda.get_device_capability() >= PDL_CAPABILITY else "off"
    return cell.options.get("pdl", default)


def _pdl_reason(cell: Cell) -> str | None:
    import torch

    pdl = cell.options.get("pdl", "off")
    if pdl == "off" or torch.cuda.get_device_capability() >= PDL_CAPABILITY:
        return None
    return f"pdl={pdl} needs compute capability 9.0"


def _load_weights(cell: Cell, device: Any, seed: int) -> "ModelWeights":
    from memfloor.engine.checkpoint import Checkpoint
    from memfloor.engine.cuda.weights import CheckpointTensors, pack_weights, random_weights

    formats = cell.workload.weights, cell.workload.head
    if cell.weights_from is None:
        return random_weights(cell.spec, device, seed, *formats)
    tensors = CheckpointTensors(Checkpoint(Path(cell.weights_from), cell.spec))
    return pack_weights(cell.spec, tensors, device, *formats)
