"""A seeded random model saved as a checkpoint, so that every runtime can be given the same weights."""

from pathlib import Path

from memfloor.record import Cell
from memfloor.runtimes.hf_model import load_model
from memfloor.runtimes.memory import require_memory


def save_seeded_checkpoint(cell: Cell, seed: int, folder: Path) -> None:
    """Save the random model of a cell of Hugging Face's runtimes, as a checkpoint in safetensors.

    Raises:
        MemoryError: The model does not fit on the cell's device.
    """
    require_memory(cell)
    load_model(cell, seed).save_pretrained(folder)
