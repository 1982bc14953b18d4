"""Every kind of record, its text, and all that lies in a folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from memfloor.errors import first_problem
from memfloor.record.anatomy import Anatomy
from memfloor.record.cell import StepPart
from memfloor.record.comparison import ArmObservation, Comparison
from memfloor.record.control import ControlLoop
from memfloor.record.energy import EnergyRun
from memfloor.record.quality import Quality
from memfloor.record.run import SCHEMA_VERSION, Failure, Run, Skip

Record = Run | Failure | Skip | Anatomy | Comparison | ArmObservation | Quality | EnergyRun | ControlLoop
_ADAPTER: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


@dataclass(frozen=True, slots=True)
class UnreadableFile:
    """Name a file of the folder that is not a record this version can read, and say why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Contents:
    """Hold all that lies in a folder: its records of every kind, oldest first, and the JSON files that are none.

    Attributes:
        every: The records, whatever part of a step they are about.
        unreadable: The files that are none.
        part: The part whose records the properties return, so that nobody takes its runs for those of another.
    """

    every: Sequence[Record]
    unreadable: Sequence[UnreadableFile]
    part: StepPart = "step"

    def of(self, part: StepPart) -> "Contents":
        """Return the same contents, seen for another part of a step."""
        return replace(self, part=part)

    @property
    def runs(self) -> list[Run | Failure | Skip]:
        """Return every run, failure and skip."""
        kinds = Run | Failure | Skip
        return [record for record in self.every if isinstance(record, kinds) and record.cell.part == self.part]

    @property
    def anatomies(self) -> list[Anatomy]:
        """Return every anatomy."""
        return [record for record in self.every if isinstance(record, Anatomy)]

    @property
    def comparisons(self) -> list[Comparison]:
        """Return every comparison."""
        return [item for item in self.every if isinstance(item, Comparison) and item.baseline.part == self.part]

    @property
    def observations(self) -> list[ArmObservation]:
        """Return what was seen of the arms of comparisons."""
        return [record for record in self.every if isinstance(record, ArmObservation)]

    def of_session(self, session_id: str) -> "Contents":
        """Return the records of one session."""
        return replace(self, every=[record for record in self.every if record.session_id == session_id])

    @property
    def qualities(self) -> list[Quality]:
        """Return the qualities of paths of weights."""
        return [record for record in self.every if isinstance(record, Quality)]

    @property
    def energy_runs(self) -> list[EnergyRun]:
        """Return the energy runs, those that gave nothing included."""
        return [record for record in self.every if isinstance(record, EnergyRun)]

    @property
    def control_loops(self) -> list[ControlLoop]:
        """Return the control loops."""
        return [record for record in self.every if isinstance(record, ControlLoop)]


def read_file(path: Path) -> Record | UnreadableFile:
    """Return the record that a file holds, or why it holds none."""
    try:
        return read_record(path.read_bytes(), path)
    except OSError as error:
        return UnreadableFile(path, f"not readable as JSON: {error}")


def record_text(record: Record) -> str:
    """Return a record as its file holds it."""
    # A trace has a thousand kernels: a number per line would be most of the file.
    compact = isinstance(record, Anatomy | ArmObservation | Quality | EnergyRun | ControlLoop)
    return record.model_dump_json(indent=None if compact else 1)


def read_record(text: bytes, path: Path) -> Record | UnreadableFile:
    """Return the record that a text is, or why it is none.

    Args:
        text: What a file holds.
        path: Of the file.
    """
    try:
        raw = from_json(text)
    except ValueError as error:
        return UnreadableFile(path, f"not readable as JSON: {error}")
    if not isinstance(raw, dict) or "schema_version" not in raw:
        return UnreadableFile(path, "not a memfloor record: it has no schema_version")
    version = raw["schema_version"]
    if version != SCHEMA_VERSION:
        return UnreadableFile(path, f"schema version {version}; this memfloor reads version {SCHEMA_VERSION}")
    try:
        return _ADAPTER.validate_python(raw, strict=False)
    except ValidationError as error:
        return UnreadableFile(path, f"not a valid record: {first_problem(error)}")
