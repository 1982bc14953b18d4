"""What a worker has for itself on its machine: CPUs or a GPU that no other worker of this user takes meanwhile.

A claim is a lock on a file, which ends with the process that holds it, however that ends. So the worker of a driver
that was killed and the one of the driver that goes on never measure at once on the same device.
"""

import fcntl
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from memfloor.errors import UsageError

# What a lost worker leaves behind ends within this time.
WAIT_SECONDS = 60.0
LOOK_SECONDS = (0.05, 0.15)


class Claim:
    """Hold the names that were claimed until it is released or its process ends."""

    def __init__(self, descriptors: dict[str, int]) -> None:
        self._descriptors = descriptors

    @property
    def names(self) -> list[str]:
        """Return what is held."""
        return list(self._descriptors)

    def release(self) -> None:
        """Let others have it."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors = {}


def claim(names: Sequence[str], wanted: int, wait_seconds: float = WAIT_SECONDS) -> Claim:
    """Claim so many of the names, all of them or none; wait for those that another worker holds.

    Args:
        names: Names to choose from, the first free ones are taken.
        wanted: How many.
        wait_seconds: How long to wait until so many are free.

    Raises:
        UsageError: There are not so many, or others hold them for too long.
    """
    if wanted > len(names):
        raise UsageError(f"{wanted} of {', '.join(names)} cannot be had: there are {len(names)}")
    deadline = time.monotonic() + wait_seconds
    while True:
        held = _take(names, wanted)
        if len(held) == wanted:
            return Claim(held)
        Claim(held).release()
        if time.monotonic() >= deadline:
            raise UsageError(f"{wanted} of {', '.join(names)} are not free: other workers of memfloor hold them")
        # Two that took half each must not let go and try again in step.
        time.sleep(random.uniform(*LOOK_SECONDS))


def _take(names: Sequence[str], wanted: int) -> dict[str, int]:
    held: dict[str, int] = {}
    for name in names:
        if len(held) == wanted:
            break
        descriptor = os.open(_folder() / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            held[name] = descriptor
    return held


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"memfloor-claims-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
