"""Read the tensors of a local Hugging Face checkpoint."""

from pathlib import Path
from typing import Any

from memfloor.errors import UsageError


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the tensors of every `.safetensors` file of a folder by their Hugging Face names, mapped and not copied.

    Raises:
        UsageError: The folder holds no such file.
    """
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{folder} holds no .safetensors")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}
