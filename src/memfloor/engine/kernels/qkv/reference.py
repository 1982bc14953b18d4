"""The truth of the QKV kernel: raw heads, and what becomes of them before attention."""

import torch


def qkv(x: torch.Tensor, sums: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, eps: float) -> torch.Tensor:
    """Return the raw heads W x / rms + bias, float32 [N].

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


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the halves of heads [..., D] by angles whose cosines and sines are [D / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def turned(
    raw: torch.Tensor,
    kv_heads: int,
    cos: torch.Tensor,
    sin: torch.Tensor,
    qk_norm: tuple[torch.Tensor, torch.Tensor] | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return heads ready for attention, float32 [N], and the squares that their norms still need [(H + Hkv) * D / 2].

    Args:
        raw: Q, K and V heads one after another [N].
        kv_heads: Hkv.
        cos: Cosines of the position [D / 2].
        sin: Sines of the position [D / 2].
        qk_norm: Weights of the norms of Q and K heads [D] each, or None.
        scale: Multiplies Q.
    """
    heads = raw.float().view(-1, 2 * cos.numel())
    q, k, v = heads[: -2 * kv_heads], heads[-2 * kv_heads : -kv_heads], heads[-kv_heads:]
    first, second = torch.cat([q, k]).chunk(2, dim=-1)
    squares = (first * first + second * second).flatten()
    if qk_norm is not None:
        q, k = q * qk_norm[0].float(), k * qk_norm[1].float()
    return torch.cat([rotate(q, cos, sin) * scale, rotate(k, cos, sin), v]).flatten(), squares
