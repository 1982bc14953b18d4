"""What one number costs in memory: the weight and KV formats of the catalogue."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from memfloor.errors import UsageError


class WeightFormat(BaseModel):
    """Say what one weight costs in memory, its quantisation scales included.

    A format may be a mix, as the recipes of llama.cpp are: then `of_matrix` says which format a matrix is kept in, and
    the numbers here are those of most matrices.

    Attributes:
        column_scale_bytes: Of the scale that each column has beside those of the groups.
        columns_multiple: To which columns are padded, where a library's tiles need it.
        fallback: Format of the matrices whose columns are no multiple of the group size.
        finer: Format of the matrices named in `finer_in`, in the layers that `is_finer_layer` chooses.
        finer_in: Hugging Face names of those matrices.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bits: int = Field(gt=0)
    scale_bytes: int = 0
    group_size: int = Field(default=0, ge=0)
    zero_bits: int = Field(default=0, ge=0)
    outer_scale_bytes: int = 0
    outer_group_size: int = Field(default=0, ge=0)
    column_scale_bytes: int = Field(default=0, ge=0)
    columns_multiple: int = Field(default=1, gt=0)
    fallback: str | None = None
    finer: str | None = None
    finer_in: tuple[str, ...] = ()
    source: str

    def of_matrix(self, name: str, columns: int, layer: int = 0, layers: int = 1) -> "WeightFormat":
        """Return the format that one matrix is kept in; itself unless this is a mix.

        Args:
            name: Hugging Face name, such as `v_proj` or `lm_head`.
            columns: Its K.
            layer: Its decoder block.
            layers: Decoder blocks of the model; the head is the only one of its kind.
        """
        if self.finer and name in self.finer_in and is_finer_layer(layer, layers):
            return weight_format(self.finer).of_matrix(name, columns, layer, layers)
        if self.fallback and columns % self.group_size:
            return weight_format(self.fallback).of_matrix(name, columns, layer, layers)
        return self

    def weight_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of the numbers of a [rows, columns] weight, without its scales."""
        return rows * self._padded(columns) * self.bits // 8

    def scales_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of the scales and zeros of a [rows, columns] weight; groups run along columns."""
        groups = rows * -(-self._padded(columns) // (self.group_size or columns))
        outer_groups = -(-groups // self.outer_group_size) if self.outer_group_size else 0
        zeros_bytes = groups * self.zero_bits // 8
        of_columns = self._padded(columns) * self.column_scale_bytes
        return groups * self.scale_bytes + zeros_bytes + outer_groups * self.outer_scale_bytes + of_columns

    def _padded(self, columns: int) -> int:
        return -(-columns // self.columns_multiple) * self.columns_multiple

    @property
    def is_quantized(self) -> bool:
        """Tell whether a weight takes fewer than 16 bits."""
        return self.bits < 16


class KVFormat(BaseModel):
    """Say what one key or value vector of one head costs in memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bits: int = Field(gt=0)
    scale_bytes: int = 0
    source: str

    def vector_bytes(self, head_dim: int) -> int:
        """Return the bytes of one vector of head_dim numbers with its scale."""
        return head_dim * self.bits // 8 + self.scale_bytes


def is_finer_layer(layer: int, layers: int) -> bool:
    """Tell whether llama.cpp's recipes give a layer more bits: the first and the last eighth, and each third between.

    Source: llama.cpp, llama-quant.cpp, use_more_bits.
    """
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


@cache
def _formats() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads((files("memfloor") / "data" / "formats.toml").read_text())


def weight_format_names() -> list[str]:
    """Return the names of the weight formats of the catalogue."""
    return list(_formats()["weights"])


def kv_format_names() -> list[str]:
    """Return the names of the KV cache formats of the catalogue."""
    return list(_formats()["kv"])


def weight_format(name: str) -> WeightFormat:
    """Return a weight format of the catalogue.

    Raises:
        UsageError: The name is not in the catalogue.
    """
    if name not in _formats()["weights"]:
        raise UsageError.unknown("weight format", name, weight_format_names())
    return WeightFormat(name=name, **_formats()["weights"][name])


def kv_format(name: str) -> KVFormat:
    """Return a KV cache format of the catalogue.

    Raises:
        UsageError: The name is not in the catalogue.
    """
    if name not in _formats()["kv"]:
        raise UsageError.unknown("KV format", name, kv_format_names())
    return KVFormat(name=name, **_formats()["kv"][name])


def unquantized(weights: str) -> str:
    """Return the 16- or 32-bit type that a model keeps beside weights of this format: their own, or bf16."""
    return "bf16" if weight_format(weights).is_quantized else weights
