"""What lies below the served folder: read once, again where a file has changed, and never outside of it."""

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from memfloor.errors import UsageError
from memfloor.record import (
    Contents,
    ControlLoop,
    EnergyRun,
    Failure,
    Record,
    Skip,
    Store,
    Timed,
    UnreadableFile,
    read_file,
)
from memfloor.serve.folder import Entry, Folder

# Times of the last changes of contents and rights, and size: what tells that a file is still the one that was read.
Stamp = tuple[int, int, int]
NO_FILE: Stamp = (0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Hold all that lay below the folder at one moment.

    Attributes:
        root: The folder, with every link resolved.
        folders: By name, those that hold records themselves; the name is the way to them from the root.
        entries: By the identity of its record, oldest first.
        problems: By name, why a file is left out.
        devices: By the identity of a record, the name of its device; that of its session where it names none itself.
    """

    root: Path
    folders: Mapping[str, Folder]
    entries: Mapping[str, Entry]
    problems: Mapping[str, str]
    devices: Mapping[str, str]

    def below(self, folder: str) -> Contents:
        """Return what lies in a folder and all below it, as `memfloor report` reads it.

        Args:
            folder: Its name.
        """
        chosen = [entry.record for entry in self.entries.values() if is_below(entry.folder, folder)]
        unreadable = [
            UnreadableFile(Path(name), reason)
            for name, reason in self.problems.items()
            if is_below(name.rpartition("/")[0] or ".", folder)
        ]
        return Contents(chosen, unreadable)

    def read_bytes(self, entry: Entry) -> bytes:
        """Return the file of a record as it is now.

        Raises:
            UsageError: It has gone, or has become a link that leads out of the folder.
        """
        try:
            return _inside(entry.path, self.root).read_bytes()
        except OSError as error:
            raise UsageError(f"{entry.name} cannot be read any more: {error.strerror or error}") from error


class Library:
    """Keep the records below a folder in memory; several threads may ask at once."""

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder.resolve())
        self._lock = Lock()
        self._known: dict[Path, tuple[Stamp, Entry | str]] = {}
        self._last = Snapshot(self._store.folder, {}, {}, {}, {})

    def snapshot(self) -> Snapshot:
        """Return what lies there now; only files that are new or have changed are read."""
        with self._lock:
            found = {path: self._look(path) for path in self._store.files()}
            if found != self._known:
                self._known = found
                self._last = self._arranged({path: known for path, (_, known) in found.items()})
            return self._last

    def _look(self, path: Path) -> tuple[Stamp, Entry | str]:
        try:
            facts = path.lstat()
            if stat.S_ISLNK(facts.st_mode):
                # Of all that is found below the folder only a link can lead out of it.
                facts = _inside(path, self._store.folder).stat()
        except UsageError as error:
            return NO_FILE, str(error)
        except OSError as error:
            return NO_FILE, f"not readable: {error.strerror or error}"
        stamp = facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size
        if path in self._known and self._known[path][0] == stamp:
            return self._known[path]
        if not stat.S_ISREG(facts.st_mode):
            return stamp, "not a plain file"
        return stamp, self._entry(path)

    def _entry(self, path: Path) -> Entry | str:
        found = read_file(path)
        return found.reason if isinstance(found, UnreadableFile) else Entry(found, path, self._name(path))

    def _name(self, path: Path) -> str:
        # A name that is no UTF-8 must not break the page that lists it.
        return os.fsencode(path.relative_to(self._store.folder)).decode("utf-8", "backslashreplace")

    def _arranged(self, found: Mapping[Path, Entry | str]) -> Snapshot:
        entries: dict[str, Entry] = {}
        folders: dict[str, list[Entry]] = defaultdict(list)
        problems = {self._name(path): known for path, known in found.items() if isinstance(known, str)}
        readable = [known for known in found.values() if isinstance(known, Entry)]
        for entry in sorted(readable, key=lambda each: (each.record.taken_at, each.record.record_id)):
            first = entries.setdefault(entry.record.record_id, entry)
            if first is entry:
                folders[entry.folder].append(entry)
            else:
                problems[entry.name] = f"holds the same record as {first.name}"
        return Snapshot(
            root=self._store.folder,
            folders={name: self._folder(name, folders[name]) for name in sorted(folders)},
            entries=entries,
            problems=problems,
            devices=_devices([entry.record for entry in entries.values()]),
        )

    def _folder(self, name: str, entries: Sequence[Entry]) -> Folder:
        # One that has not changed keeps the summaries that were made of it.
        last = self._last.folders.get(name)
        return last if last and last.entries == tuple(entries) else Folder(name, tuple(entries))


def is_below(name: str, folder: str) -> bool:
    """Say whether a folder is another one or lies below it; `.` is the served one."""
    return folder in (".", name) or name.startswith(f"{folder}/")


def _inside(path: Path, root: Path) -> Path:
    try:
        target = path.resolve(strict=True)
    except RuntimeError as error:
        raise UsageError("a link that leads to itself") from error
    if not target.is_relative_to(root):
        raise UsageError("a link that leads out of the served folder")
    return target


def _devices(records: Iterable[Record]) -> dict[str, str]:
    own = {record.record_id: (record.session_id, _device(record)) for record in records}
    sessions: dict[str, set[str]] = defaultdict(set)
    for session, device in own.values():
        if device:
            sessions[session].add(device)
    only = {session: next(iter(names)) for session, names in sessions.items() if len(names) == 1}
    named = {record_id: device or only.get(session) for record_id, (session, device) in own.items()}
    return {record_id: device for record_id, device in named.items() if device}


def _device(record: Record) -> str | None:
    match record:
        case Timed() | ControlLoop():
            return record.environment.device.name
        case EnergyRun() if record.measured:
            return record.measured.environment.device.name
        case Failure() | Skip() | EnergyRun():
            return record.device.name if record.device else None
        case _:
            return None
