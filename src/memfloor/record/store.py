"""The store: one folder, one JSON file per record, written whole or not at all."""

import json
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from memfloor.errors import UsageError, first_problem
from memfloor.record.anatomy import Anatomy
from memfloor.record.comparison import ArmObservation, Comparison
from memfloor.record.energy import EnergyRun
from memfloor.record.quality import Quality
from memfloor.record.schema import SCHEMA_VERSION, Failure, Run, Skip, StepPart

Record = Run | Failure | Skip | Anatomy | Comparison | ArmObservation | Quality | EnergyRun
TRACE_SUFFIX = ".trace.json.gz"
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


class Store:
    """Keep records in a folder; many processes may write to it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open_for_writing(self) -> None:
        """Create the folder and prove that a file can be written there.

        Raises:
            UsageError: The folder cannot be made or written to.
        """
        probe = self.folder / f".probe-{uuid.uuid4().hex}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                probe.write_bytes(b"\0" * 65536)
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write to {self.folder}: {error.strerror or error}") from error

    def add(self, record: Record) -> Path:
        """Write a record so that a reader sees all of it or nothing, also after a power cut.

        Raises:
            UsageError: The folder cannot be written to, or the disk is full; nothing is left behind.
        """
        path = self.folder / f"{_file_stem(record)}.json"
        draft = self.folder / f".draft-{uuid.uuid4().hex}"
        try:
            with draft.open("w", encoding="utf-8") as file:
                # A trace has a thousand kernels: a number per line would be most of the file.
                indent = None if isinstance(record, Anatomy | ArmObservation | Quality | EnergyRun) else 1
                file.write(record.model_dump_json(indent=indent) + "\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            _sync_folder(self.folder)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            # Also after an interrupt; a draft that has become the record is not there any more.
            draft.unlink(missing_ok=True)
        return path

    def trace_path(self, record_id: str, what: str) -> Path:
        """Return where the trace of an anatomy goes, which Perfetto opens.

        Args:
            record_id: The anatomy's.
            what: What was traced, `step` or `twin`.
        """
        return self.folder / f"{what}-{record_id}{TRACE_SUFFIX}"

    def trace_files(self) -> dict[str, list[Path]]:
        """Return the traces below the folder by the anatomy they belong to; not every folder keeps them."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self.folder.rglob(f"*{TRACE_SUFFIX}")):
            record_id = path.name.removesuffix(TRACE_SUFFIX).rpartition("-")[2]
            found.setdefault(record_id, []).append(path)
        return found

    def read(self) -> tuple[list[Run | Failure | Skip], list[UnreadableFile]]:
        """Return every run, failure and skip of whole steps, oldest first, and the JSON files that are no record.

        Raises:
            UsageError: The folder does not exist.
        """
        found = self.contents()
        return found.runs, list(found.unreadable)

    def anatomies(self) -> list[Anatomy]:
        """Return every anatomy below the folder, oldest first.

        Raises:
            UsageError: The folder does not exist.
        """
        return self.contents().anatomies

    def comparisons(self) -> tuple[list[Comparison], list[ArmObservation]]:
        """Return every comparison below the folder, and what was seen of their arms, oldest first.

        Raises:
            UsageError: The folder does not exist.
        """
        found = self.contents()
        return found.comparisons, found.observations

    def contents(self) -> Contents:
        """Return all that lies below the folder, read in one pass.

        Raises:
            UsageError: The folder does not exist.
        """
        if not self.folder.is_dir():
            raise UsageError(f"{self.folder} is not a folder with records")
        records: list[Record] = []
        unreadable: list[UnreadableFile] = []
        for path in self.files():
            result = read_record(path)
            if isinstance(result, UnreadableFile):
                unreadable.append(result)
            else:
                records.append(result)
        records.sort(key=lambda record: (record.taken_at, record.record_id))
        return Contents(records, unreadable)

    def files(self) -> Iterator[Path]:
        """Give the files below the folder that may be records, in order; no folder that is a link is entered."""
        # Hidden files are drafts of a writer that is still at work or was killed.
        return (path for path in sorted(self.folder.rglob("*.json")) if not path.name.startswith("."))


def read_record(path: Path) -> Record | UnreadableFile:
    """Return the record that a file holds, or why it holds none."""
    try:
        content = path.read_bytes()
        raw = json.loads(content)
        if b"\\u" in content:
            # An escape can stand for half a character, which nothing could print.
            json.dumps(raw, ensure_ascii=False).encode()
    except (OSError, ValueError, RecursionError) as error:
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


def _file_stem(record: Record) -> str:
    key, what = _name_parts(record)
    readable = re.sub(r"[^A-Za-z0-9.=]+", "-", key)[:120].strip("-")
    return f"{readable}_{what}_{record.record_id}"


def _name_parts(record: Record) -> tuple[str, str]:
    match record:
        case Comparison():
            return record.candidate.key, "comparison"
        case ArmObservation():
            return record.cell.key, record.arm
        case Quality():
            return record.cell.key, record.kind
        case _:
            return record.cell.key, f"{record.kind}{record.block:03d}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
