"""One folder of records, and what `report` says of it, computed once."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memfloor.record import Contents, Record
from memfloor.report.attention import Attention, attention_in
from memfloor.report.by_cell import InvalidCell
from memfloor.report.energy import Energies, energies_of
from memfloor.report.summary import CellSummary, summarise

ID_DIGITS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """Hold one record and the file that it was read from.

    Attributes:
        name: The way to the file from the served folder.
    """

    record: Record
    path: Path
    name: str

    @property
    def folder(self) -> str:
        """Return the name of the folder that it lies in; `.` is the served one."""
        return self.name.rpartition("/")[0] or "."


@dataclass(frozen=True, eq=False)
class Folder:
    """Hold a folder that has records in itself; those of folders below it are theirs.

    Attributes:
        name: The way to it from the served folder.
        entries: Its records, oldest first.
    """

    name: str
    entries: tuple[Entry, ...]

    @property
    def contents(self) -> Contents:
        """Return its records as `report` takes them."""
        return Contents([entry.record for entry in self.entries], ())

    @cached_property
    def cells(self) -> Mapping[str, CellSummary]:
        """Return its cells that have times, each by an identity that keeps while runs are added."""
        return {self._cell_id(summary): summary for summary in self._summarised[0]}

    @property
    def invalid(self) -> Sequence[InvalidCell]:
        """Return its cells that gave no times."""
        return self._summarised[1]

    @cached_property
    def attention(self) -> Attention:
        """Return what is said of attention backends."""
        return attention_in(self.contents)

    @cached_property
    def energies(self) -> Energies:
        """Return what is said of energy."""
        return energies_of(self.contents.energy_runs)

    @cached_property
    def _summarised(self) -> tuple[list[CellSummary], list[InvalidCell]]:
        return summarise(self.contents.runs)

    def _cell_id(self, summary: CellSummary) -> str:
        run = summary.runs[0]
        parts = (self.name, summary.cell.key, summary.device.name, run.protocol.model_dump_json())
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:ID_DIGITS]
