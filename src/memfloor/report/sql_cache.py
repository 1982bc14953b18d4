"""The tables of a large folder, kept in a derived file of the user's cache, that may be deleted any time.

It is named by all that its rows come from: each JSON file's path, inode, size and times, and this program's own files.
Where anything has changed no file has that name, and the records are read again.
"""

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

import memfloor
from memfloor.record import UnreadableFile
from memfloor.report.sql import Tables, fill

# Fewer records are read about as fast as a file of their tables is opened.
LARGE_FOLDER = 1000
UNREADABLE = "files_left_out"
SUFFIX = ".duckdb"


@dataclass(frozen=True, slots=True)
class Kept:
    """Hold where the tables of a folder are, and which of its files they leave out."""

    path: Path
    unreadable: tuple[UnreadableFile, ...]


def kept_tables(folder: Path, read: Callable[[], tuple[Tables, list[UnreadableFile]]]) -> Kept | None:
    """Return the file that keeps the tables of a folder, made now unless it is there.

    Args:
        folder: Folder with records.
        read: Reads its records, for a file that must be made.

    Returns:
        None where the folder is small, or where no file can be kept; the records must be read then.
    """
    snapshot = sorted(_files(str(folder)))
    if len(snapshot) < LARGE_FOLDER:
        return None
    path = cache_folder() / f"{_digest(str(folder.resolve()))}-{_digest(repr((snapshot, _program())))}{SUFFIX}"
    try:
        return _opened(path) if path.is_file() else _made(path, *read())
    except (OSError, duckdb.Error):
        # A full disk, a folder that cannot be written, a damaged file: the answer does not depend on it.
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return None


def cache_folder() -> Path:
    """Return the user's folder of kept tables, below `XDG_CACHE_HOME` where that is set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memfloor" / "tables"


def _opened(path: Path) -> Kept:
    with duckdb.connect(str(path), read_only=True) as connection:
        rows = connection.execute(f"SELECT path, reason FROM {UNREADABLE}").fetchall()
    return Kept(path, tuple(UnreadableFile(Path(name), reason) for name, reason in rows))


def _made(path: Path, tables: Tables, unreadable: list[UnreadableFile]) -> Kept:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".draft-{uuid.uuid4().hex}")
    try:
        with duckdb.connect(str(draft)) as connection:
            columns = {"path": "VARCHAR", "reason": "VARCHAR"}
            left_out = [{"path": str(file.path), "reason": file.reason} for file in unreadable]
            fill(connection, tables | {UNREADABLE: (columns, left_out)})
        for older in path.parent.glob(f"{path.name.partition('-')[0]}-*{SUFFIX}"):
            older.unlink(missing_ok=True)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return Kept(path, tuple(unreadable))


def _files(folder: str) -> Iterator[tuple[str, int, int, int, int]]:
    """Give what tells each JSON file below a folder from what it was before."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            elif entry.name.endswith(".json") and not entry.name.startswith("."):
                said = entry.stat()
                yield entry.path, said.st_ino, said.st_size, said.st_mtime_ns, said.st_ctime_ns


def _program() -> list[tuple[str, int, int]]:
    root = Path(memfloor.__file__).parent
    files = [path for path in root.rglob("*") if path.suffix in (".py", ".toml")]
    return sorted((str(path), said.st_size, said.st_mtime_ns) for path in files for said in [path.stat()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
