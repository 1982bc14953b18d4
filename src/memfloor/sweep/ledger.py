"""The driver's ledger of what is done, which is the store itself."""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from memfloor.errors import UsageError
from memfloor.record import Record, Store


class Ledger(Protocol):
    """Hold the records of a sweep, each at most once."""

    where: str

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
        """Open the folder, and lock it for the sweep of this name until this process ends.

        Raises:
            UsageError: The folder cannot be written to, or another driver of this sweep has it.
        """
        self.where = str(folder)
        self._store = Store(folder)
        self._store.open_for_writing()
        # Never deleted: a lock on a file that another process has just unlinked would hold nobody back.
        self._lock = os.open(folder / f".sweep-{sweep}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UsageError(f"sweep {sweep!r} is running on {folder} already; let it end, or interrupt it") from None

    def records(self) -> Sequence[Record]:
        """Return what is on record below the folder."""
        return self._store.contents().every

    def keep(self, record: Record) -> bool:
        """Keep a record unless it is there; see `Ledger`."""
        return self._store.add_once(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Let another driver have the folder."""
        os.close(self._lock)
