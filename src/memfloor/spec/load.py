"""A model by its name: from the catalogue, or from a local Hugging Face config."""

import json
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from memfloor.errors import UsageError, first_problem
from memfloor.spec.model import KNOWN_MODEL_TYPES, ModelSpec


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
        unsupported = _unsupported(config, sliding_layers)
        if unsupported is not None:
            raise UsageError(f"{source or name}: {unsupported}")
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
    except UsageError:
        raise
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


def _rope_parameters(config: Mapping[str, Any]) -> Mapping[str, Any]:
    # transformers 5 writes one `rope_parameters`; older files have `rope_theta` and `rope_scaling`, which transformers
    # prefers where a file has both.
    return config.get("rope_scaling") or config.get("rope_parameters") or {}


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    scaling = dict(_rope_parameters(config))
    theta = scaling.pop("rope_theta", None) or config.get("rope_theta") or 10_000.0
    rope_type = scaling.get("rope_type") or scaling.pop("type", "default")
    scaling["rope_type"] = rope_type
    return {"rope_theta": theta, "rope_scaling": None if rope_type == "default" else scaling}


def _unsupported(config: Mapping[str, Any], sliding_layers: int) -> str | None:
    # What no field of a spec can say: the same bytes, but other arithmetic.
    activation = config.get("hidden_act") or "silu"
    rotated = {**config, **_rope_parameters(config)}.get("partial_rotary_factor", 1.0)
    full_layers = config["num_hidden_layers"] - sliding_layers
    types = config.get("layer_types") or []
    slides, expected = [name == "sliding_attention" for name in types], [i >= full_layers for i in range(len(types))]
    unsupported = {
        f"hidden_act {activation!r} is not supported; supported: silu": activation not in ("silu", "swish"),
        f"partial_rotary_factor {rotated} is not supported; supported: 1.0": rotated != 1.0,
        f"layer_types other than {full_layers} full and then {sliding_layers} sliding ones are not supported": (
            slides != expected or len(types) not in (0, config["num_hidden_layers"])
        ),
    }
    return next((reason for reason, holds in unsupported.items() if holds), None)


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
