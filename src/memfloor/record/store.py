"""The store: one folder, one JSON file per record, written whole or not at all."""

import gc
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memfloor.errors import UsageError
from memfloor.record.anatomy import Anatomy
from memfloor.record.comparison import ArmObservation, Comparison
from memfloor.record.contents import Contents, Record, UnreadableFile, read_file, record_text
from memfloor.record.files import CLOCK_NS, files_below, identity_of
from memfloor.record.index import note
from memfloor.record.quality import Quality
from memfloor.record.run import Failure, Run, Skip

TRACE_SUFFIX = ".trace.json.gz"


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
        path = self._path(record)
        with self._written(record, path) as draft:
            draft.replace(path)
        return path

    def add_once(self, record: Record) -> bool:
        """Write a record as `add` does, but leave the one that is there if it has the same name.

        Of several processes that add one record, exactly one succeeds.

        Returns:
            Whether it was written.

        Raises:
            UsageError: The folder cannot be written to, the disk is full, or its file system knows no hard links.
        """
        path = self._path(record)
        try:
            with self._written(record, path) as draft:
                # A rename would put it in the place of another writer's; a link is refused.
                os.link(draft, path)
        except FileExistsError:
            return False
        return True

    def _path(self, record: Record) -> Path:
        return self.folder / f"{file_stem(record)}.json"

    @contextmanager
    def _written(self, record: Record, path: Path) -> Iterator[Path]:
        """Give the synced draft of a record, to be put in its place, and leave neither draft nor doubt behind."""
        draft = self.folder / f".draft-{uuid.uuid4().hex}"
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(record_text(record) + "\n")
                file.flush()
                # Dated back, so that a change however soon after it gives the file another time.
                os.utime(file.fileno(), ns=(time.time_ns() - CLOCK_NS,) * 2)
                os.fsync(file.fileno())
                yield draft
                _sync_folder(self.folder)
                # The link that a record was made by would count as a change of it.
                draft.unlink(missing_ok=True)
                # Of this file, even if another writer has put one in its place.
                note(path, identity_of(os.fstat(file.fileno())), record)
        except FileExistsError:
            raise
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            # Also after an interrupt; a draft that has become the record is not there any more.
            draft.unlink(missing_ok=True)

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
        with _no_collection():
            for path in self.files():
                result = read_file(path)
                if isinstance(result, UnreadableFile):
                    unreadable.append(result)
                else:
                    records.append(result)
        records.sort(key=lambda record: (record.taken_at, record.record_id))
        return Contents(records, unreadable)

    def files(self) -> Iterator[Path]:
        """Give the files below the folder that may be records, in order; no folder that is a link is entered."""
        return iter(sorted(Path(path) for path, _ in files_below(str(self.folder))))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's collector from looking for cycles meanwhile, which records have not.

    It would go through the millions of parts of ten thousand records again and again, for most of the time of reading.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def file_stem(record: Record) -> str:
    """Return the name of a record's file: what it is in words, and its identity."""
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
