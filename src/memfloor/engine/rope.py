"""Rotary position tables: the cosine and sine of every position and frequency."""

import math

import numpy as np
from numpy.typing import NDArray

from memfloor.errors import UsageError
from memfloor.spec import ModelSpec

ROPE_TYPES = ("default", "linear", "llama3")


def rope_table(spec: ModelSpec, max_len: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines, float32 [max_len, D / 2] each.

    Raises:
        UsageError: The model scales its frequencies in a way the engine does not know.
    """
    angles = np.outer(np.arange(max_len, dtype=np.float32), _frequencies(spec))
    return np.cos(angles), np.sin(angles)


def unknown_rope_type(spec: ModelSpec) -> str | None:
    """Return the model's rope type if the engine does not know it."""
    rope_type = str((spec.rope_scaling or {}).get("rope_type", "default"))
    return None if rope_type in ROPE_TYPES else rope_type


def _frequencies(spec: ModelSpec) -> NDArray[np.float32]:
    unknown = unknown_rope_type(spec)
    if unknown is not None:
        raise UsageError.unknown("rope type", unknown, ROPE_TYPES)
    exponents = np.arange(0, spec.head_dim, 2, dtype=np.float32) / np.float32(spec.head_dim)
    frequencies: NDArray[np.float32] = 1.0 / np.float32(spec.rope_theta) ** exponents
    scaling = spec.rope_scaling
    if scaling is None:
        return frequencies
    if scaling["rope_type"] == "linear":
        return frequencies / np.float32(scaling["factor"])
    return _llama3(frequencies, {key: float(value) for key, value in scaling.items() if key != "rope_type"})


def _llama3(frequencies: NDArray[np.float32], scaling: dict[str, float]) -> NDArray[np.float32]:
    # Source: transformers, modeling_rope_utils._compute_llama3_parameters.
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (frequencies * kept + frequencies / scaling["factor"] * (1.0 - kept)).astype(np.float32)
