"""The static KV cache: one buffer for all layers, filled slot by slot."""

import torch

from memfloor.spec import ModelSpec


def allocate_cache(spec: ModelSpec, max_len: int, device: torch.device) -> torch.Tensor:
    """Return a zeroed bf16 cache [L, 2, Hkv, max_len, D]: keys, then values, of each layer."""
    shape = (spec.num_hidden_layers, 2, spec.num_key_value_heads, max_len, spec.head_dim)
    return torch.zeros(shape, dtype=torch.bfloat16, device=device)


def fill_cache(cache: torch.Tensor, length: int, seed: int) -> None:
    """Fill the first `length` slots of every head with seeded normal numbers."""
    generator = torch.Generator(device=cache.device).manual_seed(seed)
    for layer in cache:
        layer[:, :, :length].normal_(generator=generator)
