"""The index of a folder: the digest of each run, a line each, kept in the user's cache as runs are written or read.

A line counts for the very file that it was made from and for no other, so a line may be torn, out of date or missing:
the record is read then. Many processes append at once.
"""

import os
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from itertools import groupby
from pathlib import Path

from pydantic_core import from_json, to_json

import memfloor
from memfloor.cache import cache_folder, sources_digest
from memfloor.errors import UsageError
from memfloor.record.contents import Record, UnreadableFile, read_file
from memfloor.record.digest import Digest, digest_of
from memfloor.record.files import FileIdentity, files_below
from memfloor.record.run import Failure, Run, Skip

# A record that is no run, failure or skip has no digest.
Entry = Digest | None
Key = tuple[str, FileIdentity]
# Lines of files that have gone, beyond which an index is written anew.
MOST_STALE = 1000


def _rules() -> str:
    """Return what differs between two programs that may read a record differently."""
    root = Path(memfloor.__file__).parent
    files = [root / "errors.py", root / "data" / "formats.toml", *(root / "spec").glob("*.py")]
    return sources_digest([*files, *(root / "record").glob("*.py")])


# Of the program that is loaded, which another may take the place of while it runs.
RULES = _rules()


def note(path: Path, identity: FileIdentity, record: Record) -> None:
    """Append the line of a record that was written, if the user's cache can be written to.

    Args:
        path: Of its file.
        identity: Of its file, which any later change makes another one.
        record: The record.
    """
    _Index(path.parent).append([((path.name, identity), _entry(record))])


def read_digests(folder: Path) -> tuple[list[Digest], list[UnreadableFile]]:
    """Return the digest of every run, failure and skip below a folder, oldest first, and the files that are no record.

    Only files that the index does not know are read.

    Raises:
        UsageError: The folder does not exist.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder with records")
    digests: list[Digest] = []
    unreadable: list[UnreadableFile] = []
    seen_ns = time.time_ns()
    found = sorted((os.path.split(path), identity) for path, identity in files_below(str(folder)))
    for below, files in groupby(found, key=lambda item: item[0][0]):
        keys = [(name, identity) for (_, name), identity in files]
        entries, problems = _read_folder(Path(below), keys, seen_ns)
        digests += filter(None, entries)
        unreadable += problems
    digests.sort(key=lambda digest: (digest.taken_at, digest.record_id))
    return digests, sorted(unreadable, key=lambda file: file.path)


def _read_folder(folder: Path, keys: Sequence[Key], seen_ns: int) -> tuple[list[Entry], list[UnreadableFile]]:
    index = _Index(folder)
    known = index.read()
    entries = {key: known[key] for key in keys if key in known}
    unreadable, fresh = [], []
    for key in keys:
        if key in entries:
            continue
        read = read_file(folder / key[0])
        if isinstance(read, UnreadableFile):
            unreadable.append(read)
            continue
        entries[key] = _entry(read)
        if key[1].settled(seen_ns):
            fresh.append(key)
    index.append((key, entries[key]) for key in fresh)
    if len(known) > len(keys) + MOST_STALE:
        index.rewrite({key: known[key] for key in keys if key in known})
    return list(entries.values()), unreadable


def _entry(record: Record) -> Entry:
    return digest_of(record) if isinstance(record, Run | Failure | Skip) else None


class _Index:
    """Keep the lines of one folder, without those of folders below it."""

    def __init__(self, folder: Path) -> None:
        name = sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:24]
        self._path = cache_folder("index") / f"{name}-{RULES}.jsonl"

    def read(self) -> dict[Key, Entry]:
        """Return what the lines say, but those that are not whole."""
        with suppress(OSError):
            lines = self._path.read_bytes().split(b"\n")
            return dict(filter(None, map(_parsed, lines)))
        return {}

    def append(self, entries: Iterable[tuple[Key, Entry]]) -> None:
        """Append lines, if the user's cache can be written to."""
        text = "".join(map(_line, entries)).encode()
        if not text:
            return
        # The answer does not depend on it.
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._path.exists():
                self._forget_others()
            with self._path.open("ab", buffering=0) as file:
                # Its own end of line first: the line before may be one that a killed writer has torn.
                file.write(b"\n" + text)

    def rewrite(self, entries: Mapping[Key, Entry]) -> None:
        """Put these lines in the place of all; one that another process appends meanwhile may be lost."""
        with suppress(OSError):
            draft = self._path.with_name(f".draft-{uuid.uuid4().hex}")
            draft.write_text("".join(map(_line, entries.items())))
            draft.replace(self._path)

    def _forget_others(self) -> None:
        for path in self._path.parent.glob(f"{self._path.name.partition('-')[0]}-*"):
            path.unlink(missing_ok=True)


def _line(entry: tuple[Key, Entry]) -> str:
    (name, identity), digest = entry
    # A name that is no UTF-8 would not come back.
    return to_json([name, *identity, digest and asdict(digest)]).decode() + "\n" if name.isprintable() else ""


def _parsed(line: bytes) -> tuple[Key, Entry] | None:
    # A part of a line is never JSON, for its brackets do not match.
    try:
        name, *identity, digest = from_json(line)
        return (name, FileIdentity(*identity)), digest and Digest(**digest)
    except (ValueError, TypeError):
        return None
