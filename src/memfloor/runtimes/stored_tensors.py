"""The tensors of a local checkpoint whose projections are stored in a library's own way, one by one.

Read here and not by transformers, which would choose the layers by itself.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from memfloor.engine.checkpoint import StoredTensor, read_headers
from memfloor.errors import UsageError

if TYPE_CHECKING:
    import torch


class StoredTensors:
    """Give the tensors of a folder's safetensors files by name."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        """List the tensors; none is read yet.

        Args:
            folder: Of the checkpoint.
            device: Where tensors are put.

        Raises:
            UsageError: There is no safetensors file, or one cannot be read.
        """
        self._folder, self._device = folder, device
        self._places = read_headers(folder)

    def __contains__(self, name: str) -> bool:
        """Tell whether there is a tensor of a name."""
        return name in self._places

    def tensor(self, name: str) -> "torch.Tensor":
        """Return a tensor on the device.

        Raises:
            UsageError: There is none of that name.
        """
        from safetensors import safe_open

        with safe_open(self._place(name).file, framework="pt", device=self._device) as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it.

        Raises:
            UsageError: There is none of that name.
        """
        return self._place(name).shape

    def load_rest(self, model: Any, *, without: tuple[str, ...] = ()) -> None:
        """Copy everything but the projections' weights, and those named, into a model of the same shape.

        Raises:
            UsageError: A tensor is missing or of another shape.
        """
        import torch

        with torch.no_grad():
            # A tied head is the embedding table, and comes once.
            for name, parameter in model.named_parameters():
                if not name.endswith("_proj.weight") and name not in without:
                    self._copy(name, parameter)

    def _place(self, name: str) -> StoredTensor:
        if name not in self._places:
            raise UsageError(f"{self._folder} lacks the tensor {name}")
        return self._places[name]

    def _copy(self, name: str, parameter: "torch.Tensor") -> None:
        place = self._place(name)
        if place.shape != tuple(parameter.shape):
            raise UsageError(f"{name} in {place.file} is {list(place.shape)}, not {list(parameter.shape)}")
        parameter.copy_(self.tensor(name))
