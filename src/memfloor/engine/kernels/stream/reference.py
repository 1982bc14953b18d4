"""The truth about the streaming read, in plain torch."""

import torch


def read_partials(source: torch.Tensor, programs: int, block: int) -> torch.Tensor:
    """Return the exclusive or of everything that each program reads.

    Args:
        source: int32 [blocks * block].
        programs: Program p reads blocks p, p + programs, p + 2 * programs and so on.
        block: Elements of one block.

    Returns:
        int32 [programs].
    """
    blocks = source.view(-1, block)
    return torch.stack([_xor(blocks[program::programs].reshape(-1)) for program in range(programs)])


def _xor(values: torch.Tensor) -> torch.Tensor:
    while values.numel() > 1:
        if values.numel() % 2:
            values = torch.nn.functional.pad(values, (0, 1))
        values = values[0::2] ^ values[1::2]
    return values[0]
