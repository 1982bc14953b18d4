"""What a reader asks to see: one value or none for each of a few facts, all of which must hold."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from urllib.parse import urlencode

from memfloor.errors import UsageError
from memfloor.record import Cell
from memfloor.report.listing import cells_of
from memfloor.serve.folder import Entry, Folder
from memfloor.serve.library import Snapshot, is_below

NO_DEVICE = "no device"


@dataclass(frozen=True, slots=True)
class Selection:
    """Hold what was chosen; an empty text chooses nothing and leaves all.

    Attributes:
        folder: Name of a folder; those below it are chosen with it.
        device: As its driver names it.
        model: Name of the model.
        runtime: Without its options.
        weights: Format of the weights.
        context: Tokens in the KV cache.
        kind: Of record; cells and folders are not chosen by it.
    """

    folder: str = ""
    device: str = ""
    model: str = ""
    runtime: str = ""
    weights: str = ""
    context: str = ""
    kind: str = ""

    @property
    def query(self) -> str:
        """Return what was chosen as the query of an address."""
        return urlencode({name: value for name, value in asdict(self).items() if value})

    def check(self, choices: Mapping[str, Sequence[str]]) -> None:
        """Refuse what is nowhere in the served folder.

        Args:
            choices: See `choices_in`.

        Raises:
            UsageError: A value was chosen that no record has.
        """
        for name, value in asdict(self).items():
            if value and value not in choices[name]:
                raise UsageError.unknown(name, value, choices[name])

    def entries(self, snapshot: Snapshot) -> list[Entry]:
        """Return the records that were chosen, oldest first."""
        return [entry for entry in snapshot.entries.values() if self._takes_entry(entry, snapshot)]

    def folders(self, snapshot: Snapshot) -> list[Folder]:
        """Return the folders that were chosen by their names."""
        return [folder for name, folder in snapshot.folders.items() if is_below(name, self.folder or ".")]

    def takes_cell(self, cell: Cell, device: str) -> bool:
        """Say whether a cell on a device was chosen."""
        return all(not wanted or wanted == found for wanted, found in self._facts(cell, device))

    def _takes_entry(self, entry: Entry, snapshot: Snapshot) -> bool:
        device = snapshot.devices.get(entry.record.record_id, NO_DEVICE)
        return (
            is_below(entry.folder, self.folder or ".")
            and self.kind in ("", entry.record.kind)
            and any(self.takes_cell(cell, device) for cell in cells_of(entry.record))
        )

    def _facts(self, cell: Cell, device: str) -> tuple[tuple[str, str], ...]:
        return (
            (self.device, device),
            (self.model, cell.spec.name),
            (self.runtime, cell.runtime),
            (self.weights, cell.workload.weights),
            (self.context, str(cell.workload.context_len)),
        )


def choices_in(snapshot: Snapshot) -> dict[str, list[str]]:
    """Return for each fact of a selection the values that records have."""
    cells = [cell for entry in snapshot.entries.values() for cell in cells_of(entry.record)]
    return {
        "folder": sorted({above for name in snapshot.folders for above in _and_above(name)}),
        "device": sorted({snapshot.devices.get(record_id, NO_DEVICE) for record_id in snapshot.entries}),
        "model": sorted({cell.spec.name for cell in cells}),
        "runtime": sorted({cell.runtime for cell in cells}),
        "weights": sorted({cell.workload.weights for cell in cells}),
        "context": [str(length) for length in sorted({cell.workload.context_len for cell in cells})],
        "kind": sorted({entry.record.kind for entry in snapshot.entries.values()}),
    }


def _and_above(name: str) -> Iterable[str]:
    parts = name.split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
