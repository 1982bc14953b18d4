"""The driver's ledger of what is done, which is the store itself."""

import fcntl
import importlib
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from memfloor.errors import UsageError
from memfloor.record import Record, Store, UnreadableFile, read_record, record_text
from memfloor.record.store import file_stem

# Object stores: what is put there appears whole or not at all, and can be refused where something is.
OBJECT_STORES = ("abfs", "abfss", "az", "gcs", "gs", "memory", "s3", "s3a")

# What their packages raise that is no OSError, such as for a host that does not answer or credentials that are missing.
FOREIGN_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)


class Ledger(Protocol):
    """Hold the records of a sweep, each at most once; while it is entered, records can be kept."""

    where: str

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def records(self) -> Sequence[Record]:
        """Return what is on record."""

    def keep(self, record: Record) -> bool:
        """Keep a record unless one of its identity is there, and say whether it was kept.

        Raises:
            UsageError: It cannot be written.
        """


class FolderLedger:
    """Keep records in a folder, which one driver of a sweep holds at a time."""

    def __init__(self, folder: Path, sweep: str) -> None:
        """Name the folder and the sweep; nothing is made or locked yet."""
        self.where, self._folder, self._sweep = str(folder), folder, sweep
        self._store = Store(folder)

    def __enter__(self) -> Self:
        """Open the folder, and lock it for the sweep of this name.

        Raises:
            UsageError: The folder cannot be written to, or another driver of this sweep has it.
        """
        self._store.open_for_writing()
        # Never deleted: a lock on a file that another process has just unlinked would hold nobody back.
        self._lock = os.open(self._folder / f".sweep-{self._sweep}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UsageError(
                f"sweep {self._sweep!r} is running on {self.where} already; let it end, or interrupt it"
            ) from None
        return self

    def records(self) -> Sequence[Record]:
        """Return what is on record below the folder."""
        return self._store.contents().every if self._folder.is_dir() else []

    def keep(self, record: Record) -> bool:
        """Keep a record unless it is there; see `Ledger`."""
        return self._store.add_once(record)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Let another driver have the folder."""
        os.close(self._lock)


class UrlLedger:
    """Keep records in an object store that fsspec reaches.

    Nothing is locked there: two drivers of one sweep double no record, but take runs for nothing.
    """

    def __init__(self, url: str) -> None:
        """Reach the object store.

        Raises:
            UsageError: It is of an unknown kind, or a package is missing.
        """
        self.where = url
        protocol = url.partition("://")[0]
        if protocol not in OBJECT_STORES:
            raise UsageError.unknown("kind of URL", protocol, (*OBJECT_STORES, "a folder's path"))
        try:
            self._files, self._root = importlib.import_module("fsspec").url_to_fs(url)
        except ImportError as error:
            raise UsageError(f"{url} cannot be reached: {error}; see memfloor[fsspec]") from error
        self._errors: tuple[type[Exception], ...] = (OSError, *_foreign_errors())

    def __enter__(self) -> Self:
        """Prove that something can be put there.

        Raises:
            UsageError: It cannot.
        """
        probe = f"{self._root}/.probe-{uuid.uuid4().hex}"
        try:
            self._files.pipe_file(probe, b"")
            self._files.rm_file(probe)
        except self._errors as error:
            raise UsageError(f"cannot write to {self.where}: {error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Leave nothing open."""

    def records(self) -> Sequence[Record]:
        """Return what is on record below the URL."""
        try:
            names = [name for name in self._files.find(self._root) if name.endswith(".json")]
            texts: dict[str, bytes] = self._files.cat(names) if names else {}
        except FileNotFoundError:
            return []
        except self._errors as error:
            raise UsageError(f"cannot read {self.where}: {error}") from error
        found = [read_record(text, Path(name)) for name, text in texts.items()]
        return [record for record in found if not isinstance(record, UnreadableFile)]

    def keep(self, record: Record) -> bool:
        """Keep a record unless it is there; see `Ledger`."""
        path = f"{self._root}/{file_stem(record)}.json"
        try:
            self._files.pipe_file(path, record_text(record).encode() + b"\n", mode="create")
        except FileExistsError:
            return False
        except self._errors as error:
            raise UsageError(f"cannot write {path}: {error}") from error
        return True


def ledger_at(where: str, sweep: str) -> Ledger:
    """Return the ledger of a sweep in a folder or at a URL.

    Raises:
        UsageError: The URL cannot be reached.
    """
    return UrlLedger(where) if "://" in where else FolderLedger(Path(where), sweep)


def _foreign_errors() -> Iterator[type[Exception]]:
    """Give what the packages raise that are here."""
    for module, name in FOREIGN_ERRORS:
        try:
            found: type[Exception] = getattr(importlib.import_module(module), name)
        except ImportError:
            continue
        yield found
