"""Many records as one file: a zip that keeps their folders, or a line of JSON for each."""

import json
import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from tempfile import SpooledTemporaryFile

from memfloor.serve.folder import Entry
from memfloor.serve.library import Snapshot

MEMORY_BYTES = 16_000_000
CHUNK_BYTES = 1_000_000


def zip_of(entries: Iterable[Entry], snapshot: Snapshot) -> Iterator[bytes]:
    """Return a zip of the files of records in chunks, each file where it lies below the served folder.

    Raises:
        UsageError: A file has gone.
    """
    whole = SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115
    with zipfile.ZipFile(whole, "w") as archive:
        for entry in entries:
            archive.writestr(zipfile.ZipInfo(entry.name), snapshot.read_bytes(entry), zipfile.ZIP_DEFLATED)
    whole.seek(0)
    return _chunks(whole)


def _chunks(whole: SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
    with whole:
        yield from iter(partial(whole.read, CHUNK_BYTES), b"")


def lines_of(entries: Iterable[Entry], snapshot: Snapshot) -> Iterator[bytes]:
    """Give a line of JSON for each record, with all that its file holds.

    Raises:
        UsageError: A file has gone.
    """
    for entry in entries:
        yield json.dumps(json.loads(snapshot.read_bytes(entry)), separators=(",", ":")).encode() + b"\n"
