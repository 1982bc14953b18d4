"""Launch shapes that were tuned on one device, kept on disk with everything that they were tuned on.

They are used only where a runtime's options ask for them, so that a file that nobody thinks of changes no figure; the
record of a run names the shapes themselves.
"""

import hashlib
import json
import re
import uuid
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from memfloor.cache import cache_folder, sources_digest
from memfloor.engine import kernels
from memfloor.engine.cuda.launch_shapes import LaunchShapes
from memfloor.errors import UsageError, first_problem
from memfloor.spec import ModelSpec, Workload


@dataclass(frozen=True, slots=True)
class TunedOn:
    """Name what launch shapes depend on; where any of it is another, they may be slow or not compile.

    Attributes:
        device: Name of the GPU, as its driver calls it.
        capability: Its compute capability, such as 9.0.
        sm_count: Its multiprocessors.
        triton: Version of the compiler.
        weights: Format of the attention and MLP weights.
        head: Format of the output head.
        kv: Format of the KV cache.
        hidden_size: E of the model.
        intermediate_size: F.
        vocab_size: V.
        num_attention_heads: H.
        num_key_value_heads: Hkv.
        head_dim: D.
        qkv_bias: Whether Q, K and V have biases.
        qk_norm: Whether Q and K heads are normed.
        attention_output_bias: Whether the output projection has a bias.
        kernels: Digest of the kernels' sources.
    """

    device: str
    capability: str
    sm_count: int
    triton: str
    weights: str
    head: str
    kv: str
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    qkv_bias: bool
    qk_norm: bool
    attention_output_bias: bool
    kernels: str

    @classmethod
    def of(cls, spec: ModelSpec, workload: Workload, properties: Any, triton: str) -> "TunedOn":
        """Return it for a model in a workload's formats on a device that torch describes by `properties`."""
        shape = ("hidden_size", "intermediate_size", "vocab_size", "num_attention_heads", "num_key_value_heads")
        parts = ("head_dim", "qkv_bias", "qk_norm", "attention_output_bias")
        return cls(
            device=properties.name,
            capability=f"{properties.major}.{properties.minor}",
            sm_count=properties.multi_processor_count,
            triton=triton,
            weights=workload.weights,
            head=workload.head,
            kv=workload.kv,
            **{name: getattr(spec, name) for name in shape + parts},
            kernels=sources_digest(Path(kernels.__file__).parent.rglob("*.py")),
        )

    @property
    def path(self) -> Path:
        """Return the file of its shapes."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.device} {self.weights} {self.head} {self.kv}")
        return cache_folder("launch-shapes") / f"{readable}-{digest}.json"


@dataclass(frozen=True, slots=True)
class TunedHow:
    """Say how shapes were tuned; a reader may want to know, and nothing depends on it.

    Attributes:
        driver: Version of the device's driver, where it says so.
        context_len: Tokens in the KV cache.
        num_hidden_layers: Layers of the steps that were timed.
        default_seconds: Step of the default shapes.
        step_seconds: Step of these, beside it.
    """

    driver: str | None
    context_len: int
    num_hidden_layers: int
    default_seconds: float
    step_seconds: float


def save_shapes(tuned_on: TunedOn, shapes: LaunchShapes, how: TunedHow) -> Path:
    """Keep shapes in place of older ones for the same device, model and compiler; a reader sees all of a file or none.

    Args:
        tuned_on: What they were tuned on.
        shapes: The launch shape of every kernel.
        how: How they were tuned.

    Raises:
        UsageError: The file cannot be written.
    """
    kept = {name: cut for name, cut in asdict(shapes).items() if name != "origin"}
    content = {
        "tuned_on": asdict(tuned_on),
        "tuned_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "how": asdict(how),
        "shapes": kept,
    }
    path = tuned_on.path
    draft = path.with_name(f".draft-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(content, indent=1) + "\n")
        draft.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def load_shapes(tuned_on: TunedOn) -> LaunchShapes | None:
    """Return the shapes that were tuned for exactly this; None if none were.

    Raises:
        UsageError: The file is damaged, or of a memfloor whose kernels are cut in other ways.
    """
    path = tuned_on.path
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}; delete it and tune again") from error
    try:
        if content["tuned_on"] != asdict(tuned_on):
            raise UsageError(f"{path} was tuned on something else than its name says; delete it and tune again")
        return _shapes(content["shapes"], f"tuned {content['tuned_at']}")
    except ValidationError as error:
        raise UsageError(f"{path} holds no launch shapes: {first_problem(error)}; tune again") from error
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path} holds no launch shapes of this memfloor: {error!r}; tune again") from error


def _shapes(content: dict[str, dict[str, Any]], origin: str) -> LaunchShapes:
    cut = {}
    kinds = get_type_hints(LaunchShapes)
    del kinds["origin"]
    for op, kind in kinds.items():
        wanted = {field.name for field in fields(kind)}
        if set(content[op]) != wanted:
            raise TypeError(f"{op} has {', '.join(sorted(content[op]))}, not {', '.join(sorted(wanted))}")
        cut[op] = TypeAdapter(kind).validate_python(content[op], strict=False)
    return LaunchShapes(**cut, origin=origin)
