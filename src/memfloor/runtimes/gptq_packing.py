"""Round weights to 4 bits in groups, and pack them as GPTQ and AWQ checkpoints hold them.

No calibration: every number becomes the nearest code of its group, so that what is lost is the format's own loss.
Source of the rules and layouts: https://github.com/ModelCloud/GPTQModel, quantization/quantizer.py (`find_params`),
nn_modules/qlinear/__init__.py (`pack_original`) and quantization/awq/utils/packing_utils.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MAX_CODE = 15
MIDDLE_CODE = 8
CODES_PER_WORD = 8
# Which code of eight neighbours lies in each four bits of a word, from the lowest.
IN_ORDER = (0, 1, 2, 3, 4, 5, 6, 7)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True, slots=True)
class Rounded:
    """Hold a matrix as codes: a weight is about (code - zero) * scale.

    Attributes:
        codes: 0 to 15, uint8 [N, K].
        scales: In the type that the kernel multiplies in, [N, groups].
        zeros: 0 to 15, uint8 [N, groups].
    """

    codes: "torch.Tensor"
    scales: "torch.Tensor"
    zeros: "torch.Tensor"


def round_to_nearest(weight: "torch.Tensor", group: int, symmetric: bool) -> Rounded:
    """Round a 16-bit weight [N, K] to the nearest of 16 codes per group along K, with scales of its own type.

    A symmetric group spans its greatest magnitude both ways around the code 8, whose upper end 7.5 is cut to 7; another
    group spans its numbers and zero. The scale is rounded before the codes are chosen, so that they fit what is stored.
    """
    import torch

    numbers = weight.detach().float().unflatten(1, (-1, group))
    low, high = numbers.amin(2).clamp(max=0.0), numbers.amax(2).clamp(min=0.0)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    # A group of zeros has any scale.
    spans = torch.where(high > low, high - low, torch.ones_like(high))
    scales = (spans / MAX_CODE).clamp(min=torch.finfo(weight.dtype).tiny).to(weight.dtype)
    zeros = torch.full_like(spans, MIDDLE_CODE) if symmetric else (-low / scales.float()).round().clamp(0, MAX_CODE)
    codes = (numbers / scales.float()[..., None]).round().add_(zeros[..., None]).clamp_(0, MAX_CODE)
    return Rounded(codes.to(torch.uint8).flatten(1), scales, zeros.to(torch.uint8))


def pack(rounded: Rounded, method: str) -> "dict[str, torch.Tensor]":
    """Return the tensors `qweight`, `qzeros` and `scales` of a layer, as checkpoints of a method hold them.

    `gptq` packs eight codes along K into a word, qweight [K/8, N]; `awq` packs eight along N in its own order, qweight
    [K, N/8]. Both pack zeros along N, [groups, N/8], and hold scales [groups, N]; zeros are stored as they are (GPTQ's
    second format).
    """
    order = AWQ_ORDER if method == "awq" else IN_ORDER
    words = pack_words(rounded.codes.T if method == "awq" else rounded.codes, order)
    return {
        "qweight": words if method == "awq" else words.T.contiguous(),
        "qzeros": pack_words(rounded.zeros.T, order),
        "scales": rounded.scales.T.contiguous(),
    }


def pack_words(codes: "torch.Tensor", order: Sequence[int]) -> "torch.Tensor":
    """Pack codes of 4 bits [R, C] into int32 words [R, C/8]."""
    import torch

    neighbours = codes.unflatten(1, (-1, CODES_PER_WORD))
    words = torch.zeros(neighbours.shape[:2], dtype=torch.int32, device=codes.device)
    for place, code in enumerate(order):
        words |= neighbours[..., code].to(torch.int32) << (4 * place)
    return words
