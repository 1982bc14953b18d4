"""The truth of the sample kernel."""

import torch


def sample(values: torch.Tensor, tokens: torch.Tensor) -> int:
    """Return the token of the greatest value, the lowest token of equals.

    Args:
        values: Best logit of each program of the head.
        tokens: The token it belongs to.
    """
    return int(tokens[values == values.max()].min())
