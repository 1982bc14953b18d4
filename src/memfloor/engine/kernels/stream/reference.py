"""The truth of the stream kernel."""

import torch


def stream(source: torch.Tensor) -> int:
    """Return the sum of int32 numbers modulo 2**32, as a signed number."""
    total = int(source.sum(dtype=torch.int64))
    return (total + 2**31) % 2**32 - 2**31
