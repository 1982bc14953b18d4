"""The truth of the embed kernel."""

import torch


def embed(
    token: int, table: torch.Tensor, norm_weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a token's row [E], the same times the first norm's weight [E], and its sum of squares; float32.

    Args:
        token: Below V.
        table: [V, E].
        norm_weight: [E].
    """
    row = table[token].float()
    return row, row * norm_weight.float(), (row * row).sum()
