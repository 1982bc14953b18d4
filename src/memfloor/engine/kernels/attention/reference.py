"""The truth of the attention kernel and of the one that joins its splits."""

import torch

from memfloor.engine.kernels.qkv.reference import rotate


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
    window: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return one token's attention [H, D], and its rotated key and its value [Hkv, D] as the cache keeps them; float32.

    Args:
        qkv: Raw Q, K and V heads one after another [(H + 2 Hkv) * D].
        position: Slot of the token; slots before it are attended to.
        cos: Cosines [positions, D / 2].
        sin: Sines [positions, D / 2].
        k_cache: [Hkv, max_len, D].
        v_cache: [Hkv, max_len, D].
        qk_norm: Weights of the norms of Q and K heads [D] each, or None.
        eps: Added to the mean squares.
        window: Slots that the token sees, its own included; 0 is all.
    """
    kv_heads, _, head_dim = k_cache.shape
    rows = qkv.float().view(-1, head_dim)
    q, k, v = rows[: -2 * kv_heads], rows[-2 * kv_heads : -kv_heads], rows[-kv_heads:]
    if qk_norm is not None:
        q, k = rms_norm(q, qk_norm[0], eps), rms_norm(k, qk_norm[1], eps)
    q, k = rotate(q, cos[position], sin[position]), rotate(k, cos[position], sin[position])
    k, v = k.to(k_cache.dtype).float(), v.to(v_cache.dtype).float()
    first = max(0, position + 1 - window) if window else 0
    keys = torch.cat([k_cache[:, first:position].float(), k[:, None]], dim=1)
    values = torch.cat([v_cache[:, first:position].float(), v[:, None]], dim=1)
    grouped = q.view(kv_heads, -1, head_dim)
    weights = torch.softmax(grouped @ keys.transpose(1, 2) / head_dim**0.5, dim=-1)
    return (weights @ values).view(-1, head_dim), k, v


def combine(
    partial: torch.Tensor,
    maxima: torch.Tensor,
    sums: torch.Tensor,
    used: int,
    score: torch.Tensor,
    value: torch.Tensor,
) -> torch.Tensor:
    """Return the attention [H * D], float32, of the first `used` splits and the token itself.

    Args:
        partial: Sums of weighted values, each over its split [H, splits, D].
        maxima: Greatest score of each split, times log2(e) [H, splits].
        sums: Sum of weights of each split [H, splits].
        used: Splits that hold slots; what the others hold does not count.
        score: Of the token's own key, times log2(e) [H].
        value: The token's own value, repeated for the heads that share it [H, D].
    """
    tops = torch.cat([maxima[:, :used], score[:, None]], dim=1)
    weights = torch.exp2(tops - tops.amax(dim=1, keepdim=True))
    values = torch.cat([partial[:, :used], value[:, None]], dim=1)
    total = (torch.cat([sums[:, :used], torch.ones_like(score)[:, None]], dim=1) * weights).sum(dim=1, keepdim=True)
    return ((values * weights[..., None]).sum(dim=1) / total).flatten()
