"""What is decoded: a model's shape, the formats of its weights and KV cache, and one workload."""

from memfloor.spec.formats import (
    KVFormat,
    WeightFormat,
    kv_format,
    kv_format_names,
    unquantized,
    weight_format,
    weight_format_names,
)
from memfloor.spec.load import from_hf_config, load_model, model_names
from memfloor.spec.model import KNOWN_MODEL_TYPES, ModelSpec, check_context
from memfloor.spec.workload import Workload

__all__ = [
    "KNOWN_MODEL_TYPES",
    "KVFormat",
    "ModelSpec",
    "WeightFormat",
    "Workload",
    "check_context",
    "from_hf_config",
    "kv_format",
    "kv_format_names",
    "load_model",
    "model_names",
    "unquantized",
    "weight_format",
    "weight_format_names",
]
