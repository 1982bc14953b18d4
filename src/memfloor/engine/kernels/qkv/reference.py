"""The truth of the QKV kernel."""

import torch


def qkv(x: torch.Tensor, sums: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """Return W x / rms + bias, float32 [N].

    Args:
        x: Residual stream times the norm's weight [K].
        sums: Partial sums of squares of the residual stream, any number of them.
        w: Q, K and V rows one after another [N, K].
        bias: [N] or None.
        eps: Added to the mean square.
    """
    scale = torch.rsqrt(sums.float().sum() / x.numel() + eps)
    out = w.float() @ x.float() * scale
    return out if bias is None else out + bias.float()
