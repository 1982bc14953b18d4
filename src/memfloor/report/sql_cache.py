"""The tables of a large folder, kept in derived files of the user's cache, that may be deleted any time.

Each is named by all that its rows come from: each JSON file's path, inode, size and times, and this program's own
files. Where anything has changed no file has that name, and the table is made again.
"""

import hashlib
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

import memfloor
from memfloor.cache import cache_folder
from memfloor.record import UnreadableFile, files_below
from memfloor.report.sql import Tables, fill

# Fewer records are read about as fast as a file of their tables is opened.
LARGE_FOLDER = 1000
UNREADABLE = "files_left_out"
SUFFIX = ".duckdb"
FOLDER = "tables"

Reader = Callable[[Collection[str]], tuple[Tables, list[UnreadableFile]]]


@dataclass(frozen=True, slots=True)
class Kept:
    """Hold where the tables of a folder are, by name, and which of its files they leave out."""

    paths: Mapping[str, Path]
    unreadable: tuple[UnreadableFile, ...]


def kept_tables(folder: Path, names: Collection[str], read: Reader) -> Kept | None:
    """Return the files that keep some tables of a folder, made now unless they are there.

    Args:
        folder: Folder with records.
        names: Of the tables; at least one.
        read: Reads its records and makes tables of them, by name.

    Returns:
        None where the folder is small or changed a moment ago, or where no file can be kept; the records must be read
        then.
    """
    seen_ns = time.time_ns()
    files = sorted(files_below(str(folder)))
    if len(files) < LARGE_FOLDER or not all(identity.settled(seen_ns) for _, identity in files):
        return None
    of_folder = _digest(str(folder.resolve()))
    snapshot = f"{of_folder}-{_digest(repr((files, _program())))}"
    paths = {name: cache_folder(FOLDER) / f"{snapshot}-{name}{SUFFIX}" for name in names}
    try:
        _forget(of_folder, snapshot)
        missing = {name: path for name, path in paths.items() if not path.is_file()}
        if missing:
            _make(missing, *read(missing))
        return Kept(paths, _left_out([*paths.values()]))
    except (OSError, duckdb.Error):
        # A full disk, a folder that cannot be written, a damaged file: the answer does not depend on it.
        for path in paths.values():
            with suppress(OSError):
                path.unlink(missing_ok=True)
        return None


def _left_out(paths: list[Path]) -> tuple[UnreadableFile, ...]:
    found = []
    for path in paths:
        with duckdb.connect(str(path), read_only=True) as connection:
            found = connection.execute(f"SELECT path, reason FROM {UNREADABLE}").fetchall()
    return tuple(UnreadableFile(Path(name), reason) for name, reason in found)


def _make(paths: Mapping[str, Path], tables: Tables, unreadable: list[UnreadableFile]) -> None:
    columns = {"path": "VARCHAR", "reason": "VARCHAR"}
    left_out = [{"path": str(file.path), "reason": file.reason} for file in unreadable]
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".draft-{uuid.uuid4().hex}")
        try:
            with duckdb.connect(str(draft)) as connection:
                fill(connection, {name: tables[name], UNREADABLE: (columns, left_out)})
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _forget(of_folder: str, snapshot: str) -> None:
    for path in cache_folder(FOLDER).glob(f"{of_folder}-*{SUFFIX}"):
        if not path.name.startswith(snapshot):
            path.unlink(missing_ok=True)


def _program() -> list[tuple[str, int, int]]:
    root = Path(memfloor.__file__).parent
    files = [path for path in root.rglob("*") if path.suffix in (".py", ".toml")]
    return sorted((str(path), said.st_size, said.st_mtime_ns) for path in files for said in [path.stat()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]
