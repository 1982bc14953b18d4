"""The truth of the attention kernel and of the one that joins its splits."""

import torch


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the halves of heads [..., D] by angles whose cosines and sines are [D / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return x [..., D] over its root mean square, times a weight [D]."""
    return x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + eps) * weight.float()


def attention(
    qkv: torch.Tensor,
    position: int,
    cos: torch.Tensor,
    sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    qk_norm: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the attention [H, D] of one token and its rotated key and its value [Hkv, D]; float32.

    Args:
        qkv: Raw Q, K and V heads one after another [(H + 2 Hkv) * D].
        position: Slot of the token; slots before it are attended to.
        cos: Cosines [positions, D / 2].
        sin: Sines [positions, D / 2].
        k_cache: [Hkv, max_len, D].
        v_cache: [Hkv, max_len, D].
        qk_norm: Weights of the norms of Q and K heads [D] each, or None.
        eps: Added to the mean squares.
    """
    kv_heads, _, head_dim = k_cache.shape
    rows = qkv.float().view(-1, head_dim)
    q, k, v = rows[: -2 * kv_heads], rows[-2 * kv_heads : -kv_heads], rows[-kv_heads:]
    if qk_norm is not None:
        q, k = rms_norm(q, qk_norm[0], eps), rms_norm(k, qk_norm[1], eps)
    q, k = rotate(q, cos[position], sin[position]), rotate(k, cos[position], sin[position])
    keys = torch.cat([k_cache[:, :position].float(), k[:, None]], dim=1)
    values = torch.cat([v_cache[:, :position].float(), v[:, None]], dim=1)
    grouped = q.view(kv_heads, -1, head_dim)
    weights = torch.softmax(grouped @ keys.transpose(1, 2) / head_dim**0.5, dim=-1)
    return (weights @ values).view(-1, head_dim), k, v


def combine(partial: torch.Tensor, maxima: torch.Tensor, sums: torch.Tensor, used: int) -> torch.Tensor:
    """Return the attention [H * D], float32, of the first `used` splits.

    Args:
        partial: Sums of weighted values, each over its split [H, splits, D].
        maxima: Greatest score of each split, times log2(e) [H, splits].
        sums: Sum of weights of each split [H, splits].
        used: Splits that hold slots, 1 or more; what the others hold does not count.
    """
    weights = torch.exp2(maxima[:, :used] - maxima[:, :used].amax(dim=1, keepdim=True))
    total = (sums[:, :used] * weights).sum(dim=1, keepdim=True)
    return ((partial[:, :used] * weights[..., None]).sum(dim=1) / total).flatten()
