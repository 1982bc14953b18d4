"""Records by cell and device: those that gave something, and the cells that never did, each with its last reason."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from memfloor.record import Cell, DeviceInfo
from memfloor.record.run import OfCell

Of = TypeVar("Of", bound=OfCell)


@dataclass(frozen=True, slots=True)
class InvalidCell:
    """Hold a cell that gave nothing, and why."""

    cell: Cell
    device: DeviceInfo | None
    reason: str

    def to_json(self, reason_name: str = "invalid") -> dict[str, Any]:
        """Return the cell as plain data for `--json`, with its reason under a name."""
        device = self.device.name if self.device else None
        return {**cell_json(self.cell), "device": device, "runs": 0, reason_name: self.reason}


@dataclass(frozen=True, slots=True)
class Given:
    """Say what one record gave.

    Attributes:
        device: As far as it was described.
        setting: What records of one cell and device must share beside; of one that gave something.
        reason: Why it gave nothing; None where it gave something.
    """

    device: DeviceInfo | None
    setting: Hashable = None
    reason: str | None = None


def by_cell(records: Iterable[Of], given: Callable[[Of], Given]) -> tuple[list[list[Of]], list[InvalidCell]]:
    """Group what records gave by cell, device and setting, in the order in which each was first seen.

    A cell that gave something on a device once is not among those that gave nothing there, and one that failed before
    its device was known is not where it gave something on any.

    Args:
        records: Of any cells.
        given: Says what each gave.
    """
    groups: dict[tuple[str, str, Hashable], list[Of]] = defaultdict(list)
    lost: dict[tuple[str, str], InvalidCell] = {}
    for record in records:
        found = given(record)
        name = found.device.name if found.device else ""
        if found.reason is None:
            groups[record.cell.key, name, found.setting].append(record)
        else:
            lost[record.cell.key, name] = InvalidCell(record.cell, found.device, found.reason)
    valid = {(key, name) for key, name, _ in groups} | {(key, "") for key, _, _ in groups}
    return list(groups.values()), [cell for identity, cell in lost.items() if identity not in valid]


def cell_json(cell: Cell) -> dict[str, Any]:
    """Return what a cell is as plain data for `--json`."""
    return {
        "model": cell.spec.name,
        "runtime": cell.runtime,
        "options": cell.options,
        "context_len": cell.workload.context_len,
        "batch": cell.workload.batch,
        "weights": cell.workload.weights,
    }
