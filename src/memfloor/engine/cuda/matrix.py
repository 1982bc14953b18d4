"""A weight matrix as the kernels read it: a bf16 tensor, or quantised and packed with its scales in one buffer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from memfloor.errors import UsageError
from memfloor.spec import weight_format

# Numbers quantised at a time, so that float32 copies stay small beside the weights.
BLOCK_NUMBERS = 1 << 26
WORD_BYTES = 4
# Columns of a 64-byte chunk, by format; `kernels.dequantize` says where in it each column is.
CHUNK_COLUMNS = {"int8": 64, "fp8": 64, "int4-g128": 128}
FORMATS = ("bf16", *CHUNK_COLUMNS)
# A lane loads 16 bytes of a row at a time, which in bf16 are eight numbers.
BF16_COLUMNS = 8
INT8_MAX, INT8_OFFSET, FP8_MAX, INT4_MAX = 127.0, 128.0, 448.0, 15.0


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """Hold a quantised matrix [N, K].

    Attributes:
        words: int32: the words of all rows, then their scales.
        format: Name of the weight format.
        shape: N and K.
    """

    words: torch.Tensor
    format: str
    shape: tuple[int, int]

    @property
    def values(self) -> torch.Tensor:
        """Return the packed weights, int32 [N, chunks, 16]."""
        return self.words[: self._value_words].view(self.shape[0], -1, 16)

    @property
    def scales(self) -> torch.Tensor:
        """Return the scales: float32 [N], or of int4-g128 bf16 scale and zero [chunks, N, 2]."""
        words = self.words[self._value_words :]
        if self.format != "int4-g128":
            return words.view(torch.float32)
        return words.view(torch.bfloat16).view(-1, self.shape[0], 2)

    @property
    def _value_words(self) -> int:
        return weight_format(self.format).weight_bytes(*self.shape) // WORD_BYTES


Matrix = torch.Tensor | PackedMatrix


def format_name(matrix: Matrix) -> str:
    """Return the name of a matrix's weight format."""
    return "bf16" if isinstance(matrix, torch.Tensor) else matrix.format


def refuse_columns(name: str, columns: int) -> str | None:
    """Say why the kernels cannot read rows of `columns` numbers in a format; None if they can."""
    chunk = CHUNK_COLUMNS.get(name, BF16_COLUMNS)
    return None if columns % chunk == 0 else f"{name} needs rows in multiples of {chunk} numbers, not {columns}"


def quantize(weights: torch.Tensor, name: str) -> Matrix:
    """Return weights [..., K] in a format, by rounding to the nearest; bf16 stays as it is.

    int8 and fp8 scale each row's greatest magnitude to the format's greatest number. int4-g128 spreads the range of
    each group of 128, zero included, over 0 to 15.

    Raises:
        UsageError: The format is unknown or the kernels cannot read such rows in it.
    """
    if name not in FORMATS:
        raise UsageError.unknown("weight format", name, FORMATS)
    problem = refuse_columns(name, weights.shape[-1])
    if problem is not None:
        raise UsageError(problem)
    if name == "bf16":
        return weights
    rows = weights.flatten(0, -2)
    matrix = _empty(rows, name)
    for part in _blocks(rows):
        matrix.values[part], scales = QUANTIZERS[name](rows[part].float())
        if name == "int4-g128":
            matrix.scales[:, part] = scales.transpose(0, 1)
        else:
            matrix.scales[part] = scales
    return matrix


def dequantize(matrix: Matrix) -> torch.Tensor:
    """Return the numbers a matrix stands for, float32 [N, K]; a tensor keeps its shape."""
    if isinstance(matrix, torch.Tensor):
        return matrix.float()
    rows, columns = matrix.shape
    packed = matrix.values.view(torch.uint8)
    if matrix.format == "int4-g128":
        nibbles = _unpack_nibbles(packed)
        scale, zero = matrix.scales.float().transpose(0, 1).unbind(-1)
        return ((nibbles.float() - zero[..., None]) * scale[..., None]).view(rows, columns)
    unpacked = _unpack_bytes(packed).view(rows, columns)
    is_int8 = matrix.format == "int8"
    numbers = unpacked.float() - INT8_OFFSET if is_int8 else unpacked.view(torch.float8_e4m3fn).float()
    return numbers * matrix.scales[:, None]


def _empty(rows: torch.Tensor, name: str) -> PackedMatrix:
    shape = (rows.shape[0], rows.shape[1])
    size = weight_format(name).weight_bytes(*shape) + weight_format(name).scales_bytes(*shape)
    return PackedMatrix(torch.empty(size // WORD_BYTES, dtype=torch.int32, device=rows.device), name, shape)


def _blocks(rows: torch.Tensor) -> Iterator[slice]:
    count = max(1, BLOCK_NUMBERS // rows.shape[1])
    for first in range(0, rows.shape[0], count):
        yield slice(first, first + count)


def _quantize_int8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = _row_scale(rows, INT8_MAX)
    return _pack_bytes(((rows / scale[:, None]).round() + INT8_OFFSET).to(torch.uint8)), scale


def _quantize_fp8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = _row_scale(rows, FP8_MAX)
    return _pack_bytes((rows / scale[:, None]).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)), scale


def _row_scale(rows: torch.Tensor, greatest: float) -> torch.Tensor:
    scale = rows.abs().amax(dim=1) / greatest
    # A row of zeros has any scale but zero.
    return torch.where(scale > 0, scale, 1.0)


def _quantize_int4(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    groups = rows.view(rows.shape[0], -1, CHUNK_COLUMNS["int4-g128"])
    low, high = groups.amin(dim=2).clamp(max=0.0), groups.amax(dim=2).clamp(min=0.0)
    scale = ((high - low) / INT4_MAX).bfloat16().float()
    scale = torch.where(scale > 0, scale, 1.0)
    zero = (-low / scale).round().clamp(0.0, INT4_MAX)
    nibbles = ((groups / scale[..., None]).round() + zero[..., None]).clamp(0.0, INT4_MAX)
    return _pack_nibbles(nibbles.to(torch.uint8)), torch.stack([scale, zero], dim=2).bfloat16()


def _pack_bytes(numbers: torch.Tensor) -> torch.Tensor:
    """Return words [N, chunks, 16] of 8-bit numbers [N, K]."""
    columns = numbers.view(torch.uint8).view(numbers.shape[0], -1, 2, 16, 2)
    packed: torch.Tensor = columns.permute(0, 1, 3, 4, 2).contiguous().view(*columns.shape[:2], 64)
    return packed.view(torch.int32)


def _unpack_bytes(packed: torch.Tensor) -> torch.Tensor:
    words = packed.view(*packed.shape[:2], 16, 2, 2)
    return words.permute(0, 1, 4, 2, 3).contiguous().flatten(2)


def _pack_nibbles(numbers: torch.Tensor) -> torch.Tensor:
    """Return words [N, chunks, 16] of 4-bit numbers [N, chunks, 128]."""
    # Field 2 f + g of a half is the nibble g of its byte f.
    columns = numbers.view(*numbers.shape[:2], 2, 2, 16, 2).permute(0, 1, 4, 5, 2, 3)
    packed: torch.Tensor = (columns[..., 0] | columns[..., 1] << 4).contiguous().flatten(2)
    return packed.view(torch.int32)


def _unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    words = packed.view(*packed.shape[:2], 16, 2, 2)
    columns = torch.stack([words & 15, words >> 4], dim=5)
    return columns.permute(0, 1, 4, 5, 2, 3).contiguous().flatten(2)


QUANTIZERS: dict[str, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]] = {
    "int8": _quantize_int8,
    "fp8": _quantize_fp8,
    "int4-g128": _quantize_int4,
}
