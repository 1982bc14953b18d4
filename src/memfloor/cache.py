"""Where derived files lie that may be deleted any time, the user's cache, and what tells those of another program."""

import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path


def cache_folder(what: str) -> Path:
    """Return the user's folder of derived files of one sort, below `XDG_CACHE_HOME` where that is set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memfloor" / what


def sources_digest(paths: Iterable[Path]) -> str:
    """Return a digest of what files hold: a program whose sources are others may derive something else."""
    digest = sha256()
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
