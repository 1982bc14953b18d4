"""The truth about the streaming read, in plain torch."""

import torch


def read_partials(source: torch.Tensor, programs: int, block: int) -> torch.Tensor:
    """Sum the blocks that each program reads.

    Args:
        source: int32 [blocks * block].
        programs: Program p reads blocks p, p + programs, p + 2 * programs and so on.
        block: Elements of one block.

    Returns:
        int32 [programs], wrapping around as the kernel's adds do.
    """
    sums = source.view(-1, block).sum(dim=1, dtype=torch.int64)
    totals = torch.zeros(programs, dtype=torch.int64, device=source.device)
    totals.index_add_(0, torch.arange(sums.numel(), device=source.device) % programs, sums)
    return totals.to(torch.int32)
