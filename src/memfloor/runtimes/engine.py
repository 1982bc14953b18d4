"""The project's own engine on a CUDA GPU: Triton kernels over one plan, eager or replayed as a CUDA Graph."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from memfloor.errors import UsageError
from memfloor.floor import check_context
from memfloor.record import Cell, ObservedPath
from memfloor.runtimes.memory import require_memory
from memfloor.runtimes.protocol import DecodeRequest

if TYPE_CHECKING:
    from memfloor.engine.decode import Decoder
    from memfloor.engine.weights import ModelWeights
    from memfloor.spec import ModelSpec

# The oldest compute capability with bf16 arithmetic, and the first with programmatic dependent launch.
BF16_CAPABILITY, PDL_CAPABILITY = (8, 0), (9, 0)


class Engine:
    """Decode at batch 1 with the project's own kernels.

    Options: `launch` = eager or graph (default), `pdl` = off, flags or preload (default where the GPU has it).
    """

    name: ClassVar[str] = "engine"
    summary: ClassVar[str] = "this project's engine: one plan of own kernels, eager or replayed as a graph"
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "launch": ("graph", "eager"),
        "pdl": ("preload", "flags", "off"),
    }

    def __init__(self, request: DecodeRequest) -> None:
        """Keep the request; allocate nothing yet."""
        self._request = request
        self._decoder: Decoder | None = None
        self._options = request.cell.options

    @classmethod
    def unavailable_reason(cls, cell: Cell | None = None) -> str | None:
        """Say why this runtime cannot run here, or this cell; None if it can."""
        return _machine_reason() or (None if cell is None else _cell_reason(cell))

    def prepare(self) -> None:
        """Load weights, fill the KV cache up to `start_len` tokens and capture the step."""
        import torch

        from memfloor.engine.decode import Decoder
        from memfloor.engine.kernels.dependency import MODES
        from memfloor.engine.kv_cache import fill_cache
        from memfloor.engine.launch_shapes import default_shapes
        from memfloor.engine.model import DecodeModel

        request, spec = self._request, self._request.cell.spec
        require_memory(request.cell)
        max_len = request.start_len + request.max_steps
        check_context(spec, max_len)
        device = torch.device("cuda", torch.cuda.current_device())
        sms = torch.cuda.get_device_properties(device).multi_processor_count
        shapes = default_shapes(spec.hidden_size, spec.num_key_value_heads, sms)
        weights = _load_weights(request, device)
        model = DecodeModel(spec, weights, max_len, shapes, MODES[self._pdl()])
        fill_cache(model.cache, request.start_len, request.seed)
        self._decoder = Decoder(model, self._launch())
        self._decoder.start(request.seed % spec.vocab_size, request.start_len)

    def step(self) -> None:
        """Decode one token and append it; returns before the device has finished."""
        self._prepared().step()

    def observed_path(self) -> ObservedPath:
        """Take one more step and report the launches of its plan and the types of its buffers."""
        decoder = self._prepared()
        decoder.step()
        model = decoder.model
        facts = {
            "launch": self._launch(),
            "pdl": self._pdl(),
            "weights_dtype": str(model.weights.head.dtype),
            "kv_dtype": str(model.cache.dtype),
            "residual_dtype": str(model.residual.dtype),
            "max_len": str(model.max_len),
            **{f"shape_{op}": str(getattr(model.shapes, op)) for op in ("qkv", "attention", "o_proj")},
            **{f"shape_{op}": str(getattr(model.shapes, op)) for op in ("gate_up", "down_proj", "head")},
        }
        return ObservedPath(operators=model.plan.counts(), facts=facts)

    def _launch(self) -> str:
        return self._options.get("launch", "graph")

    def _pdl(self) -> str:
        import torch

        default = "preload" if torch.cuda.get_device_capability() >= PDL_CAPABILITY else "off"
        return self._options.get("pdl", default)

    def _prepared(self) -> "Decoder":
        if self._decoder is None:
            raise UsageError("prepare the runtime before its first step")
        return self._decoder


def _machine_reason() -> str | None:
    try:
        import torch
        import triton  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed; pip install 'memfloor[torch]' triton"
    if not torch.cuda.is_available():
        return "no CUDA GPU is visible to torch; the engine's Triton kernels need one"
    capability = torch.cuda.get_device_capability()
    if capability < BF16_CAPABILITY:
        return f"the GPU's compute capability {capability[0]}.{capability[1]} is below 8.0, the first with bf16"
    return None


def _cell_reason(cell: Cell) -> str | None:
    spec, workload = cell.spec, cell.workload
    refused = {
        f"device {cell.device} is not cuda": cell.device != "cuda",
        f"batch {workload.batch} is not 1": workload.batch != 1,
        f"weights {workload.weights} and head {workload.head} are not bf16": {workload.weights, workload.head}
        != {"bf16"},
        f"KV format {workload.kv} is not bf16": workload.kv != "bf16",
        "sliding-window attention is not supported": spec.num_sliding_layers > 0,
        "biases in the MLP are not supported": spec.mlp_bias,
        f"head_dim {spec.head_dim} is not a power of two": spec.head_dim & (spec.head_dim - 1) != 0,
        "a real prefill is not supported": cell.prefill,
    }
    reasons = [reason for reason, holds in refused.items() if holds]
    return reasons[0] if reasons else _pdl_reason(cell) or _rope_reason(cell)


def _pdl_reason(cell: Cell) -> str | None:
    import torch

    pdl = cell.options.get("pdl", "off")
    if pdl == "off" or torch.cuda.get_device_capability() >= PDL_CAPABILITY:
        return None
    return f"pdl={pdl} needs compute capability 9.0"


def _rope_reason(cell: Cell) -> str | None:
    from memfloor.engine.rope import unknown_rope_type

    unknown = unknown_rope_type(cell.spec)
    return None if unknown is None else f"rope type {unknown} is not supported"


def _load_weights(request: DecodeRequest, device: Any) -> "ModelWeights":
    from memfloor.engine.weights import pack_weights, random_weights

    cell = request.cell
    if cell.weights_from is None:
        return random_weights(cell.spec, device, request.seed)
    return pack_weights(cell.spec, _checkpoint(Path(cell.weights_from), cell.spec), device)


def _checkpoint(folder: Path, spec: "ModelSpec") -> dict[str, Any]:
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{folder} holds no .safetensors of {spec.name}")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}
