"""The files of a folder that may be records, and what tells each from what it was before."""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

# The coarsest clock of a file system, in nanoseconds: two changes within it may bear one time.
CLOCK_NS = 2_000_000_000


class FileIdentity(NamedTuple):
    """Hold what differs between a file and any that stood or will stand in its place, as far as it is settled."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    def settled(self, seen_ns: int) -> bool:
        """Tell whether any change after a moment gives the file another identity.

        Args:
            seen_ns: The moment when this identity was read.
        """
        return 0 < self.modified_ns < seen_ns - CLOCK_NS


NO_FILE = FileIdentity(0, 0, 0, 0)


def identity_of(said: os.stat_result) -> FileIdentity:
    """Return the identity of a file as the system describes it."""
    return FileIdentity(said.st_ino, said.st_size, said.st_mtime_ns, said.st_ctime_ns)


def files_below(folder: str) -> Iterator[tuple[str, FileIdentity]]:
    """Give each file below a folder that may be a record; no folder that is a link is entered."""
    with suppress(PermissionError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(entry.path)
            # Hidden files are drafts of a writer that is still at work or was killed.
            if entry.name.endswith(".json") and not entry.name.startswith("."):
                yield entry.path, _identity(entry)


def _identity(entry: os.DirEntry[str]) -> FileIdentity:
    try:
        return identity_of(entry.stat())
    except OSError:
        # A link that leads nowhere, or a file that has gone meanwhile.
        return NO_FILE
