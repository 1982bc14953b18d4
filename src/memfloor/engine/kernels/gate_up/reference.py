"""The truth of the gate-and-up kernel."""

import torch


def gate_up(x: torch.Tensor, sums: torch.Tensor, w: torch.Tensor, eps: float) -> torch.Tensor:
    """Return SiLU(gate) * up, float32 [F].

    Args:
        x: Residual stream times the norm's weight [E].
        sums: Partial sums of squares of the residual stream, any number of them.
        w: Gate rows, then up rows [2, F, E].
        eps: Added to the mean square.
    """
    scale = torch.rsqrt(sums.float().sum() / x.numel() + eps)
    gate, up = (w.float() @ x.float()) * scale
    out: torch.Tensor = gate * torch.sigmoid(gate) * up
    return out
