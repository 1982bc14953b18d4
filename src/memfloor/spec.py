"""What is decoded: a model's shape, the formats of its weights and KV cache, and one workload."""

import json
import tomllib
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from memfloor.errors import UsageError, first_problem

KNOWN_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


class ModelSpec(BaseModel):
    """Describe a dense decoder-only transformer, with the field names of Hugging Face configs.

    Mixture-of-experts and encoder-decoder models are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    model_type: str
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocab_size: int = Field(gt=0)
    tie_word_embeddings: bool
    max_position_embeddings: int = Field(gt=0)
    rms_norm_eps: float = Field(gt=0)
    rope_theta: float = Field(gt=0)
    rope_scaling: dict[str, float | str] | None = None
    qkv_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = Field(default=None, gt=0)
    num_sliding_layers: int = Field(default=0, ge=0)
    source: str = ""

    @property
    def fingerprint(self) -> str:
        """Return eight hexadecimal digits that differ between two models of one name but not of one shape."""
        shape = self.model_dump_json(exclude={"name", "source"})
        return sha256(shape.encode()).hexdigest()[:8]

    @model_validator(mode="after")
    def _check(self) -> "ModelSpec":
        if self.model_type not in KNOWN_MODEL_TYPES:
            raise ValueError(f"unknown model_type {self.model_type!r}; known: {', '.join(KNOWN_MODEL_TYPES)}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        return self


class WeightFormat(BaseModel):
    """Say what one weight costs in memory, its quantisation scales included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bits: int = Field(gt=0)
    scale_bytes: int = 0
    group_size: int = Field(default=0, ge=0)
    outer_scale_bytes: int = 0
    outer_group_size: int = Field(default=0, ge=0)
    source: str

    def weight_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of the numbers of a [rows, columns] weight, without its scales."""
        return rows * columns * self.bits // 8

    def scales_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of the scales and zeros of a [rows, columns] weight; groups run along columns."""
        groups = rows * -(-columns // (self.group_size or columns))
        outer_groups = -(-groups // self.outer_group_size) if self.outer_group_size else 0
        return groups * self.scale_bytes + outer_groups * self.outer_scale_bytes

    @property
    def is_quantized(self) -> bool:
        """Tell whether a weight takes fewer than 16 bits."""
        return self.bits < 16


class KVFormat(BaseModel):
    """Say what one key or value vector of one head costs in memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bits: int = Field(gt=0)
    scale_bytes: int = 0
    source: str

    def vector_bytes(self, head_dim: int) -> int:
        """Return the bytes of one vector of head_dim numbers with its scale."""
        return head_dim * self.bits // 8 + self.scale_bytes


class Workload(BaseModel):
    """Fix what one decode step works on.

    Attributes:
        context_len: Tokens in the KV cache before the step, S.
        batch: Sequences decoded together, B.
        weights: Name of the format of the attention and MLP weights.
        head: Name of the format of the output head.
        kv: Name of the format of the KV cache.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    context_len: int
    batch: int = 1
    weights: str = "bf16"
    head: str = "bf16"
    kv: str = "bf16"

    @model_validator(mode="after")
    def _check(self) -> "Workload":
        if self.context_len < 1:
            raise UsageError(f"context must be 1 token or more, not {self.context_len}")
        if self.batch < 1:
            raise UsageError(f"batch must be 1 or more, not {self.batch}")
        weight_format(self.weights)
        weight_format(self.head)
        kv_format(self.kv)
        return self

    @classmethod
    def of(
        cls, context_len: int, batch: int = 1, weights: str = "bf16", kv: str = "bf16", head: str | None = None
    ) -> "Workload":
        """Return a workload whose head, unless given, stays 16 bits wide when the other weights are quantised.

        Raises:
            UsageError: A count is below one or a format is unknown.
        """
        head = head or unquantized(weights)
        try:
            return cls(context_len=context_len, batch=batch, weights=weights, head=head, kv=kv)
        except ValidationError as error:
            raise UsageError(first_problem(error)) from error


@cache
def _formats() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads((files("memfloor") / "data" / "formats.toml").read_text())


def weight_format_names() -> list[str]:
    """Return the names of the weight formats of the catalogue."""
    return list(_formats()["weights"])


def kv_format_names() -> list[str]:
    """Return the names of the KV cache formats of the catalogue."""
    return list(_formats()["kv"])


def weight_format(name: str) -> WeightFormat:
    """Return a weight format of the catalogue.

    Raises:
        UsageError: The name is not in the catalogue.
    """
    if name not in _formats()["weights"]:
        raise UsageError.unknown("weight format", name, weight_format_names())
    return WeightFormat(name=name, **_formats()["weights"][name])


def kv_format(name: str) -> KVFormat:
    """Return a KV cache format of the catalogue.

    Raises:
        UsageError: The name is not in the catalogue.
    """
    if name not in _formats()["kv"]:
        raise UsageError.unknown("KV format", name, kv_format_names())
    return KVFormat(name=name, **_formats()["kv"][name])


def unquantized(weights: str) -> str:
    """Return the 16- or 32-bit type that a model keeps beside weights of this format: their own, or bf16."""
    return "bf16" if weight_format(weights).is_quantized else weights


def model_names() -> list[str]:
    """Return the names of the models of the catalogue."""
    folder = files("memfloor") / "data" / "models"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_model(name_or_path: str) -> ModelSpec:
    """Return a model by catalogue name, Hugging Face directory or `config.json` path.

    Raises:
        UsageError: Nothing of that name is known, or the config cannot be read or is of an unknown family.
    """
    if name_or_path in model_names():
        text = (files("memfloor") / "data" / "models" / f"{name_or_path}.toml").read_text()
        return ModelSpec(name=name_or_path, **tomllib.loads(text))
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise UsageError(
            f"unknown model {name_or_path!r}; allowed: {', '.join(model_names())}, "
            "or the path of a Hugging Face directory or config.json"
        )
    return _read_config(path)


def _read_config(path: Path) -> ModelSpec:
    try:
        config = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} holds no JSON object")
    return from_hf_config(config, name=path.resolve().parent.name, source=str(path))


def from_hf_config(config: Mapping[str, Any], name: str, source: str = "") -> ModelSpec:
    """Return the spec that a Hugging Face config describes, with that library's defaults for absent fields.

    Raises:
        UsageError: A required field is missing or wrong, or `model_type` is not one of the known families.
    """
    model_type = config.get("model_type")
    if model_type not in KNOWN_MODEL_TYPES:
        raise UsageError(f"{source or name}: unknown model_type {model_type!r}; known: {', '.join(KNOWN_MODEL_TYPES)}")
    missing = [field for field in _REQUIRED_FIELDS if config.get(field) is None]
    if missing:
        raise UsageError(f"{source or name}: config lacks {', '.join(missing)}")
    heads = config["num_attention_heads"]
    try:
        window, sliding_layers = _sliding(config, model_type)
        return ModelSpec(
            name=name,
            source=source,
            **{field: config[field] for field in _REQUIRED_FIELDS},
            num_key_value_heads=heads if config.get("num_key_value_heads") is None else config["num_key_value_heads"],
            head_dim=config["hidden_size"] // heads if config.get("head_dim") is None else config["head_dim"],
            tie_word_embeddings=config.get("tie_word_embeddings", False),
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
            **_rope(config),
            **_biases(config, model_type),
            qk_norm=model_type == "qwen3",
            sliding_window=window,
            num_sliding_layers=sliding_layers,
        )
    except ValidationError as error:
        raise UsageError(f"{source or name}: {first_problem(error)}") from error
    except (TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise UsageError(f"{source or name}: a field has the wrong type: {error}") from error


_REQUIRED_FIELDS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    # transformers 5 writes one `rope_parameters`; older files have `rope_theta` and `rope_scaling`.
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = scaling.pop("rope_theta", None) or config.get("rope_theta") or 10_000.0
    rope_type = scaling.get("rope_type") or scaling.pop("type", "default")
    scaling["rope_type"] = rope_type
    return {"rope_theta": theta, "rope_scaling": None if rope_type == "default" else scaling}


def _biases(config: Mapping[str, Any], model_type: str) -> dict[str, bool]:
    # Qwen2 has biases on Q, K and V by construction; `attention_bias` elsewhere covers all four projections.
    everywhere = bool(config.get("attention_bias", False))
    return {
        "qkv_bias": model_type == "qwen2" or everywhere,
        "attention_output_bias": model_type != "qwen2" and everywhere,
        "mlp_bias": model_type == "llama" and bool(config.get("mlp_bias", False)),
    }


def _sliding(config: Mapping[str, Any], model_type: str) -> tuple[int | None, int]:
    window = config.get("sliding_window")
    layers = config["num_hidden_layers"]
    if window is None or model_type == "llama":
        return None, 0
    if model_type == "mistral":
        return window, layers
    if not config.get("use_sliding_window", False):
        return None, 0
    return window, max(0, layers - config.get("max_window_layers", 28))
