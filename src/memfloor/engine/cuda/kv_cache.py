"""The static KV cache: one buffer for all layers, filled slot by slot."""

import torch

from memfloor.spec import ModelSpec

# fp8 is e4m3 without a scale: what is beyond 448 is stored as 448.
KV_DTYPES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


def allocate_cache(spec: ModelSpec, max_len: int, device: torch.device, kv: str = "bf16") -> torch.Tensor:
    """Return a zeroed cache [L, 2, Hkv, max_len, D]: keys, then values, of each layer, in a format of `KV_DTYPES`."""
    shape = (spec.num_hidden_layers, 2, spec.num_key_value_heads, max_len, spec.head_dim)
    return torch.zeros(shape, dtype=KV_DTYPES[kv], device=device)


def fill_cache(cache: torch.Tensor, length: int, seed: int) -> None:
    """Fill the first `length` slots of every head with seeded normal numbers."""
    generator = torch.Generator(device=cache.device).manual_seed(seed)
    for layer in cache:
        slots = layer[:, :, :length]
        # No generator makes fp8.
        slots.copy_(torch.empty(slots.shape, dtype=torch.bfloat16, device=cache.device).normal_(generator=generator))
