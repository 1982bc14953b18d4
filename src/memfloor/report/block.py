"""The middle decoder block of a traced step in parts: kernels in a row that serve one module in one role."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from memfloor.record import Anatomy, Role, TracedKernel
from memfloor.report.timeline import knows_layers, middle_block

OP_CHARACTERS = 24


@dataclass(frozen=True, slots=True)
class Part:
    """Hold one part of a block.

    Attributes:
        label: Its module or operation, and how many kernels it has if more than one.
        role: Of its kernels.
        seconds: The sum of its kernels' median times; kernels that overlap count in full.
        read_bytes: Bytes of weights or KV that it must read.
    """

    label: str
    role: Role
    seconds: float
    read_bytes: int


def block_parts(anatomy: Anatomy) -> list[Part]:
    """Return the parts of the middle block, in order."""
    groups = groupby(middle_block(anatomy), key=lambda kernel: (kernel.role, _name(kernel)))
    return [_part(role, name, list(kernels)) for (role, name), kernels in groups]


def same_blocks(anatomies: Sequence[Anatomy]) -> list[list[Anatomy]]:
    """Group the cells on one device whose blocks call the same operators; those that know no layers are left out.

    If none knows its layers, all are kept.
    """
    known = [anatomy for anatomy in anatomies if knows_layers(anatomy)] or list(anatomies)
    groups: dict[tuple[object, ...], list[Anatomy]] = {}
    for anatomy in known:
        calls = ((kernel.op, kernel.scope, kernel.read_bytes) for kernel in middle_block(anatomy))
        groups.setdefault((anatomy.environment.device.name, *calls), []).append(anatomy)
    return list(groups.values())


def _part(role: Role, name: str, kernels: Sequence[TracedKernel]) -> Part:
    return Part(
        label=name if len(kernels) == 1 else f"{name} ({len(kernels)} kernels)",
        role=role,
        seconds=sum(median(kernel.seconds) for kernel in kernels),
        read_bytes=sum(kernel.read_bytes for kernel in kernels),
    )


def _name(kernel: TracedKernel) -> str:
    module = kernel.scope.rpartition(".")[2]
    return module if module and not module.isdigit() else kernel.op.removeprefix("aten::")[:OP_CHARACTERS]
