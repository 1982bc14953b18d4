"""Random weights and KV caches at true shapes, made in a fraction of the time a generator would take."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# A prime, so that no two rows of a matrix hold the same numbers in the same columns.
BLOCK_ELEMENTS = 1_048_583


def random_tensor(
    shape: tuple[int, ...], dtype: "torch.dtype", device: str, seed: int, scale: float = 1.0
) -> "torch.Tensor":
    """Return normal numbers times scale: one seeded block, repeated to fill the shape."""
    import torch

    tensor = torch.empty(shape, dtype=dtype, device=device)
    fill(tensor, seed, scale)
    return tensor


def fill(tensor: "torch.Tensor", seed: int, scale: float) -> None:
    """Overwrite a contiguous tensor in place with normal numbers times scale."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    block = (torch.randn(min(BLOCK_ELEMENTS, tensor.numel()), generator=generator) * scale).to(tensor)
    flat = tensor.detach().view(-1)
    whole = flat.numel() // block.numel() * block.numel()
    flat[:whole].view(-1, block.numel()).copy_(block)
    flat[whole:].copy_(block[: flat.numel() - whole])


def fill_parameters(model: Any, seed: int) -> None:
    """Overwrite every parameter: matrices at 1 / sqrt(K), norms at one, biases near zero.

    The scale keeps activations finite over any depth, so that no step meets infinities or denormal numbers.
    """
    import torch

    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            if parameter.dim() == 2:
                fill(parameter, seed + index, parameter.shape[1] ** -0.5)
            elif name.endswith("bias"):
                fill(parameter, seed + index, 0.01)
            else:
                parameter.fill_(1.0)
