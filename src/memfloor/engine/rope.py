"""Rotary position tables: the cosine and sine of every position and frequency."""

import math

import numpy as np
from numpy.typing import NDArray

from memfloor.errors import UsageError
from memfloor.spec import ModelSpec

# Each with the parameters it needs.
ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def rope_table(spec: ModelSpec, max_len: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cosines and sines, float32 [max_len, D / 2] each.

    Raises:
        UsageError: The model scales its frequencies in a way the engine does not know.
    """
    angles = np.outer(np.arange(max_len, dtype=np.float32), rope_frequencies(spec))
    return np.cos(angles), np.sin(angles)


def rope_reason(spec: ModelSpec) -> str | None:
    """Say why a model's rotary positions cannot be made; None if they can."""
    scaling = spec.rope_scaling or {"rope_type": "default"}
    rope_type = str(scaling["rope_type"])
    if rope_type not in ROPE_TYPES:
        return f"rope type {rope_type} is not supported; supported: {', '.join(ROPE_TYPES)}"
    missing = [name for name in ROPE_TYPES[rope_type] if not isinstance(scaling.get(name), int | float)]
    return f"rope type {rope_type} lacks {', '.join(missing)}" if missing else None


def rope_frequencies(spec: ModelSpec) -> NDArray[np.float32]:
    """Return by how much each pair of channels turns from one position to the next, float32 [D / 2]."""
    reason = rope_reason(spec)
    if reason is not None:
        raise UsageError(reason)
    exponents = np.arange(0, spec.head_dim, 2, dtype=np.float32) / np.float32(spec.head_dim)
    frequencies: NDArray[np.float32] = 1.0 / np.float32(spec.rope_theta) ** exponents
    scaling = spec.rope_scaling
    if scaling is None:
        return frequencies
    if scaling["rope_type"] == "linear":
        return frequencies / np.float32(scaling["factor"])
    return _llama3(frequencies, {name: float(scaling[name]) for name in ROPE_TYPES["llama3"]})


def _llama3(frequencies: NDArray[np.float32], scaling: dict[str, float]) -> NDArray[np.float32]:
    # Source: transformers, modeling_rope_utils._compute_llama3_parameters.
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (frequencies * kept + frequencies / scaling["factor"] * (1.0 - kept)).astype(np.float32)
