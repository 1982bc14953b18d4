"""Fill llama.cpp's KV cache without a prefill, by writing random numbers in the layout it stores a sequence in."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memfloor.runtimes.llama_context import LlamaContext

# A prime, so that no two layers hold the same numbers in the same places.
BLOCK_NUMBERS = 1_048_583
MAGIC_BYTES = 4


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Describe the stored KV cache of one sequence.

    Attributes:
        layers: Layers of the model.
        vector_numbers: Numbers of one token's keys in one layer, Hkv times D; 16 bits each.
        kv_type: ggml's number of their type.
        transposed: Whether values are stored by channel, as they are without flash attention.
    """

    layers: int
    vector_numbers: int
    kv_type: int
    transposed: bool

    def parts(self, tokens: int, magic: bytes) -> Iterator[tuple[bytes, int]]:
        """Yield each header and how many bytes of keys or values follow it.

        Source: llama.cpp, llama_context::state_seq_get_data and llama_kv_cache::state_write.
        """
        data_bytes = 2 * self.vector_numbers * tokens
        positions = np.zeros((tokens, 3), np.int32)
        # A cell: its position, of how many sequences it is, and of which.
        positions[:, 0], positions[:, 1] = np.arange(tokens), 1
        start = magic + struct.pack("<iII", 0, 1, tokens) + positions.tobytes()
        yield start + struct.pack("<II", self.transposed, self.layers), 0
        keys = struct.pack("<iQ", self.kv_type, 2 * self.vector_numbers)
        values = struct.pack("<iII", self.kv_type, 2, self.vector_numbers) if self.transposed else keys
        for header in (keys, values):
            for _ in range(self.layers):
                yield header, data_bytes

    def describes(self, state: bytes) -> bool:
        """Tell whether a state that llama.cpp stored of one token is of this layout."""
        offset = 0
        for header, data_bytes in self.parts(1, state[:MAGIC_BYTES]):
            if state[offset : offset + len(header)] != header:
                return False
            offset += len(header) + data_bytes
        return offset == len(state)

    def random_state(self, tokens: int, magic: bytes, block: bytes) -> bytes:
        """Return the state of a sequence whose keys and values repeat a block, each from another place on."""
        pieces: list[bytes | memoryview] = []
        for index, (header, data_bytes) in enumerate(self.parts(tokens, magic)):
            start = 2 * (7919 * index % BLOCK_NUMBERS)
            repeats = (start + data_bytes) // len(block) + 1
            pieces += [header, memoryview(block * repeats)[start : start + data_bytes]]
        return b"".join(pieces)


def fill_cache(context: LlamaContext, layout: StateLayout, tokens: int, seed: int) -> bool:
    """Fill the cache with random keys and values of so many tokens; False if this llama.cpp has another layout.

    The layout is its own and no interface: it is compared with a state that the library itself stored.
    """
    context.decode(0, 0)
    stored = context.read_state()
    context.clear()
    if not layout.describes(stored):
        return False
    context.write_state(layout.random_state(tokens, stored[:MAGIC_BYTES], _random_block(layout.kv_type, seed)))
    return context.cached_len() == tokens


def _random_block(kv_type: int, seed: int) -> bytes:
    import gguf

    numbers = np.random.default_rng(seed).standard_normal(BLOCK_NUMBERS, np.float32)
    return bytes(gguf.quants.quantize(numbers, gguf.GGMLQuantizationType(kv_type)).tobytes())
