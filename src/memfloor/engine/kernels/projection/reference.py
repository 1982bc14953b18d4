"""The truth of the projection kernel."""

import torch


def projection(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, residual: torch.Tensor, norm_weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the new residual [N], the same times the next norm's weight [N], and its sum of squares; float32.

    Args:
        x: [K].
        w: [N, K].
        bias: [N] or None.
        residual: [N].
        norm_weight: Weight of the next norm [N].
    """
    out = residual.float() + w.float() @ x.float()
    out = out if bias is None else out + bias.float()
    return out, out * norm_weight.float(), (out * out).sum()
