"""The truth of the kernel that combines attention's splits and projects them."""

import torch

from memfloor.engine.kernels.projection.reference import projection


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


def combine_projection(
    scratch: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    used: int,
    w: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor,
    norm_weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what `projection` returns for the combined attention, which is never rounded to bf16.

    Args:
        scratch: Partials, maxima and sums, as in `combine`.
        used: Splits that hold slots.
        w: [N, H * D].
        bias: [N] or None.
        residual: [N].
        norm_weight: Weight of the next norm [N].
    """
    return projection(combine(*scratch, used), w, bias, residual, norm_weight)
