"""The truth of the head kernel."""

import torch


def head(x: torch.Tensor, sums: torch.Tensor, w: torch.Tensor, eps: float) -> torch.Tensor:
    """Return the logits, float32 [V].

    Args:
        x: Residual stream times the final norm's weight [E].
        sums: Partial sums of squares of the residual stream, any number of them.
        w: [V, E].
        eps: Added to the mean square.
    """
    return w.float() @ x.float() * torch.rsqrt(sums.float().sum() / x.numel() + eps)
