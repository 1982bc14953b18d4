"""A local checkpoint in safetensors, in one file or in shards, checked against the model before anything is loaded.

Read here and not by the safetensors package because numpy knows no bf16, and so that decoding needs no torch.
Source: the format's description, https://github.com/huggingface/safetensors#format
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfloor.engine.tensors import Bits, Rows, expected_tensors, to_bf16
from memfloor.errors import UsageError
from memfloor.spec import ModelSpec

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES: dict[str, np.dtype[Any]] = {"BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
# Tensors that some checkpoints carry and no decode needs.
IGNORED_ENDINGS = ("rotary_emb.inv_freq",)
# A header beyond this is no header.
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Say where a tensor lies.

    Attributes:
        file: The safetensors file.
        begin: Offset of its first byte in the file.
        end: Offset behind its last byte.
        dtype: As the file calls it, such as BF16.
        shape: Its dimensions.
    """

    file: Path
    begin: int
    end: int
    dtype: str
    shape: tuple[int, ...]


class Checkpoint:
    """Give the tensors of a checkpoint that holds exactly what a model needs."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        """Read the headers and check them; no tensor is read yet.

        Raises:
            UsageError: A file is missing, truncated or no safetensors, or a tensor is missing, unknown, of another
                shape or of a type the engine does not read.
        """
        self._tensors = read_headers(folder)
        _check(self._tensors, spec, folder)

    def vector(self, name: str) -> Bits:
        """Return a bias or a norm's weight as bf16 bits."""
        stored = self._read(self._tensors[name], 0, self._tensors[name].shape[0])
        return stored if stored.dtype == np.uint16 else to_bf16(stored.astype(np.float32, copy=False))

    def rows(self, name: str, begin: int, end: int) -> Rows:
        """Return rows [begin, end) of a matrix, or numbers of a vector: bf16 bits, or float32 where they are wider.

        Raises:
            UsageError: The file has become shorter since its header was read.
        """
        stored = self._read(self._tensors[name], begin, end)
        return stored if stored.dtype == np.uint16 else stored.astype(np.float32, copy=False)

    def tensor(self, name: str) -> Rows:
        """Return a whole tensor, as `rows` does a part of one."""
        return self.rows(name, 0, self._tensors[name].shape[0])

    def _read(self, tensor: StoredTensor, begin: int, end: int) -> NDArray[Any]:
        # Read and not mapped: mapped pages count as this process's memory, and a file that shrinks would end it.
        dtype, shape = DTYPES[tensor.dtype], (end - begin, *tensor.shape[1:])
        row_bytes, count = dtype.itemsize * math.prod(shape[1:]), math.prod(shape)
        stored = np.fromfile(tensor.file, dtype, count, offset=tensor.begin + begin * row_bytes)
        if stored.size != count:
            raise UsageError(f"{tensor.file} became shorter while it was read")
        return stored.reshape(shape)


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Return where the tensors of a checkpoint lie, by name; none is read yet.

    Raises:
        UsageError: A file is missing, truncated or no safetensors, or two tensors share a name or bytes.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in _files(folder):
        found = _read_header(file)
        for name in found.keys() & tensors.keys():
            raise UsageError(f"{name} is both in {tensors[name].file} and in {file}")
        tensors |= found
    return tensors


def _files(folder: Path) -> list[Path]:
    # In the order in which transformers looks for them.
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if (folder / INDEX).is_file():
        return [folder / name for name in _shards(folder)]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{folder} holds no .safetensors file")
    return files


def _shards(folder: Path) -> list[str]:
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{folder / INDEX} is no index of shards: {_cause(error)}") from error
    if missing:
        raise UsageError(f"{folder / INDEX} names the shard {missing[0]}, which is missing")
    return names


def _cause(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def _read_header(file: Path) -> dict[str, StoredTensor]:
    try:
        with file.open("rb") as stream:
            size, file_bytes = int.from_bytes(stream.read(8), "little"), file.stat().st_size
            if not 2 <= size <= min(MAX_HEADER_BYTES, file_bytes - 8):
                raise UsageError(f"{file} is truncated or no safetensors file")
            text = stream.read(size)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    try:
        header: Mapping[str, Any] = json.loads(text)
        tensors = {name: _stored(file, 8 + size, entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{file} has no readable safetensors header: {_cause(error)}") from error
    _check_places(tensors, file_bytes)
    return tensors


def _stored(file: Path, data_begin: int, entry: Mapping[str, Any]) -> StoredTensor:
    begin, end = entry["data_offsets"]
    sizes = [begin, end, *entry["shape"]]
    if any(type(size) is not int or size < 0 for size in sizes):
        raise ValueError(f"shape {entry['shape']} and data_offsets {entry['data_offsets']} are not all sizes")
    return StoredTensor(file, data_begin + begin, data_begin + end, str(entry["dtype"]), tuple(entry["shape"]))


def _check_places(tensors: Mapping[str, StoredTensor], file_bytes: int) -> None:
    for name, tensor in tensors.items():
        size = tensor.end - tensor.begin
        if size < 0 or (tensor.dtype in DTYPES and size != math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize):
            raise UsageError(f"{name} in {tensor.file} is {tensor.dtype} {list(tensor.shape)} but has {size} bytes")
    by_place = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    for (name, tensor), (other, behind) in pairwise(by_place):
        if behind.begin < tensor.end:
            raise UsageError(f"{name} and {other} in {tensor.file} share {tensor.end - behind.begin} bytes")
    missing = max((tensor.end for tensor in tensors.values()), default=0) - file_bytes
    if missing > 0:
        raise UsageError(f"{by_place[-1][1].file} is truncated: {missing} bytes are missing")


def _check(tensors: Mapping[str, StoredTensor], spec: ModelSpec, folder: Path) -> None:
    expected = expected_tensors(spec)
    # A tied head may be stored a second time.
    ignored = {"lm_head.weight"} if spec.tie_word_embeddings else set()
    for name, shape in expected.items():
        if name not in tensors:
            raise UsageError(f"{folder} lacks the tensor {name} of {spec.name}")
        if tensors[name].shape != shape:
            raise UsageError(f"{name} in {tensors[name].file} is {list(tensors[name].shape)}, not {list(shape)}")
        if tensors[name].dtype not in DTYPES:
            raise UsageError.unknown(f"type of {name} in {tensors[name].file}", tensors[name].dtype, DTYPES)
    for name in tensors:
        if name not in expected and name not in ignored and not name.endswith(IGNORED_ENDINGS):
            raise UsageError(f"{tensors[name].file} holds {name}, which {spec.name} has no place for")
