"""One kernel launch with everything it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class KernelCall:
    """Launch one kernel over fixed buffers; issuing it again does the same work again.

    Attributes:
        op: Name of the operation, as its folder in `kernels`.
        kernel: The Triton kernel.
        programs: Programs of the launch.
        args: Pointers, in the kernel's order.
        constants: Compile-time numbers by name.
        warps: Warps per program.
        reads: Tensors whose bytes the kernel reads once from memory: weights and such, no activations.
        registers: Registers per lane at most, or None.
    """

    op: str
    kernel: Any
    programs: int
    args: tuple[Tensor, ...]
    constants: Mapping[str, Any]
    warps: int
    reads: tuple[Tensor, ...] = field(default=())
    registers: int | None = None

    @property
    def read_bytes(self) -> int:
        """Return the bytes of `reads`."""
        return sum(tensor.nbytes for tensor in self.reads)

    def issue(self) -> None:
        """Launch the kernel on the current stream."""
        self.kernel[(self.programs,)](*self.args, **self.constants, **self.options())

    def options(self) -> dict[str, Any]:
        """Return the compiler's options, and whether the launch may overlap the one before."""
        options: dict[str, Any] = {"num_warps": self.warps, "num_stages": 1}
        if self.registers is not None:
            options["maxnreg"] = self.registers
        if self.constants.get("PDL"):
            options["launch_pdl"] = True
        return options
