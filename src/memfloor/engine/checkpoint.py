"""A local checkpoint in safetensors, in one file or in shards, checked against the model before anything is loaded.

Read here and not by the safetensors package because numpy knows no bf16, and so that decoding needs no torch.
Source: the format's description, https://github.com/huggingface/safetensors#format
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memfloor.engine.tensors import Bits, Rows, expected_tensors, to_bf16
from memfloor.errors import UsageError
from memfloor.spec import ModelSpec

INDEX = "model.safetensors.index.json"
DTYPES = {"BF16": "uint16", "F16": "float16", "F32": "float32"}
# Tensors that some checkpoints carry and no decode needs.
IGNORED_ENDINGS = ("rotary_emb.inv_freq",)
# A header beyond this is no header.
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Say where a tensor lies.

    Attributes:
        file: The safetensors file.
        offset: Of its first byte in the file.
        dtype: As the file calls it, such as BF16.
        shape: Its dimensions.
    """

    file: Path
    offset: int
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
        self._tensors = _read_headers(folder)
        _check(self._tensors, spec, folder)

    def vector(self, name: str) -> Bits:
        """Return a bias or a norm's weight as bf16 bits."""
        stored = self._map(name)
        return np.array(stored) if stored.dtype == np.uint16 else to_bf16(stored.astype(np.float32))

    def rows(self, name: str, begin: int, end: int) -> Rows:
        """Return rows [begin, end) of a matrix; bf16 ones are a view of the file."""
        stored = self._map(name)[begin:end]
        rows: Rows = stored if stored.dtype == np.uint16 else stored.astype(np.float32)
        return rows

    def _map(self, name: str) -> Any:
        tensor = self._tensors[name]
        # Opened anew for each piece: pages of a closed map no longer count as this process's memory.
        return np.memmap(tensor.file, DTYPES[tensor.dtype], "r", tensor.offset, tensor.shape)


def _read_headers(folder: Path) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for file in _files(folder):
        tensors |= _read_header(file)
    return tensors


def _files(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise UsageError(f"{folder} holds no .safetensors file")
        return files
    try:
        names = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{folder / INDEX} is no index of shards: {error}") from error
    for name in sorted(names):
        if not (folder / name).is_file():
            raise UsageError(f"{folder / INDEX} names the shard {name}, which is missing")
    return [folder / name for name in sorted(names)]


def _read_header(file: Path) -> dict[str, StoredTensor]:
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= min(MAX_HEADER_BYTES, file.stat().st_size - 8):
            raise UsageError(f"{file} is truncated or no safetensors file")
        text = stream.read(size)
    try:
        header: Mapping[str, Any] = json.loads(text)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        ends = [int(entry["data_offsets"][1]) for entry in entries.values()]
        tensors = {name: _stored(file, 8 + size, entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(f"{file} has no readable safetensors header: {error}") from error
    missing = 8 + size + max(ends, default=0) - file.stat().st_size
    if missing > 0:
        raise UsageError(f"{file} is truncated: {missing} bytes are missing")
    return tensors


def _stored(file: Path, data_begin: int, entry: Mapping[str, Any]) -> StoredTensor:
    shape = tuple(int(size) for size in entry["shape"])
    return StoredTensor(file, data_begin + int(entry["data_offsets"][0]), str(entry["dtype"]), shape)


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
