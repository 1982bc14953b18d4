"""Random weights at a model's true shape, made in about the time it takes to copy them."""

import numpy as np
from numpy.typing import NDArray

from memfloor.engine.tensors import Bits, expected_tensors, to_bf16
from memfloor.spec import ModelSpec

# Numbers of the seeded block that every matrix repeats; a prime, so that no two rows are equal.
BLOCK_NUMBERS = 4_194_319
# Each tensor starts at another place of the block.
STRIDE = 999_983


def random_prompt(vocab_size: int, length: int, seed: int, batch: int = 1) -> NDArray[np.int64]:
    """Return the prompt of every runtime, [B, length], so that their tokens can be compared.

    Args:
        vocab_size: Tokens are below it.
        length: Of the prompt.
        seed: Of its tokens.
        batch: Sequences, each with tokens of its own.
    """
    return np.random.default_rng(seed).integers(vocab_size, size=(batch, length))


class RandomTensors:
    """Give seeded normal numbers: matrices of variance 1 / K, norms near one, biases near zero.

    Activations then stay near one over any depth, and no step meets infinities or denormal numbers.
    """

    def __init__(self, spec: ModelSpec, seed: int) -> None:
        self._shapes = expected_tensors(spec)
        self._starts = {name: index * STRIDE for index, name in enumerate(self._shapes)}
        self._normal = np.random.default_rng(seed).standard_normal(BLOCK_NUMBERS, dtype=np.float32)
        self._scaled: dict[int, Bits] = {}

    def vector(self, name: str) -> Bits:
        """Return a norm's weight, near one, or a bias, near zero."""
        start = self._starts[name] % BLOCK_NUMBERS
        numbers = np.take(self._normal, np.arange(start, start + self._shapes[name][0]), mode="wrap")
        return to_bf16(0.1 * numbers + (0.0 if name.endswith("bias") else 1.0))

    def rows(self, name: str, begin: int, end: int) -> Bits:
        """Return rows [begin, end) of a matrix, or numbers of a vector."""
        if len(self._shapes[name]) == 1:
            return self.vector(name)[begin:end]
        columns = self._shapes[name][1]
        block = self._block(columns)
        out = np.empty((end - begin) * columns, dtype=np.uint16)
        at, start = 0, (self._starts[name] + begin * columns) % BLOCK_NUMBERS
        while at < out.size:
            piece = block[start : start + out.size - at]
            out[at : at + piece.size] = piece
            at, start = at + piece.size, 0
        return out.reshape(end - begin, columns)

    def _block(self, columns: int) -> Bits:
        if columns not in self._scaled:
            self._scaled[columns] = to_bf16(self._normal * np.float32(columns**-0.5))
        return self._scaled[columns]
