"""Where derived files lie that may be deleted any time: the user's cache."""

import os
from pathlib import Path


def cache_folder(what: str) -> Path:
    """Return the user's folder of derived files of one sort, below `XDG_CACHE_HOME` where that is set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memfloor" / what
