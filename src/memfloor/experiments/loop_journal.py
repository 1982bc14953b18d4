"""What a control loop has given so far, kept on disk while it runs, so that no end of its processes loses it.

A journal is a hidden file beside the records that one command holds locked, a line for each event. Whatever ends a
loop, its journal becomes one record under the name that was chosen before its first cycle: at most once, by whoever
comes to it first, the command itself or the next one.
"""

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import IO, Any, Self

from memfloor.errors import UsageError
from memfloor.experiments.control_job import LoopBegun, LoopEnded
from memfloor.record import ControlLoop, Cycles, LoopAsked, Store

# What of a child's events goes to the journal.
KEPT = ("begun", "cycles", "ended")
PATTERN = ".loops-*.jsonl"
# A process that was ended before so many cycles counted has said nothing.
FEWEST_CYCLES = 2


class LoopJournal:
    """Keep the events of one loop after another on disk; while it is entered, no other command can."""

    def __init__(self, store: Store, name: str, on_kept: Callable[[ControlLoop], None]) -> None:
        """Name the journal; nothing is made or locked yet.

        Args:
            store: Where the records go.
            name: Two commands that ask for the same give the same.
            on_kept: Told of a loop that was interrupted together with this process, once it is on record.
        """
        self._store, self._on_kept = store, on_kept
        self._path = store.folder / PATTERN.replace("*", name)

    def __enter__(self) -> Self:
        """Make the journal and lock it.

        Raises:
            UsageError: Another process has it.
        """
        draft = self._store.folder / f".draft-{uuid.uuid4().hex}"
        self._file = draft.open("w+b")
        try:
            # Locked before it has its name: a journal that is not locked is one of a command that was killed.
            fcntl.flock(self._file, fcntl.LOCK_EX)
            os.link(draft, self._path)
        except FileExistsError:
            self._file.close()
            where = self._store.folder
            raise UsageError(f"this loop is running on {where} already; let it end, or interrupt it") from None
        finally:
            draft.unlink()
        return self

    def begin(self, asked: LoopAsked) -> None:
        """Begin with a loop; the one before is on record."""
        self._file.seek(0)
        self._file.truncate()
        self._write({"asked": asked.model_dump(mode="json")})

    def hear(self, event: Mapping[str, Any]) -> None:
        """Keep an event of the loop's process, if it is one of `KEPT`."""
        if event["event"] in KEPT:
            self._write({event["event"]: event[event["event"]]})

    def close_loop(self, interrupted: str) -> ControlLoop | None:
        """Put the loop on record and return it; None where too few cycles count.

        Args:
            interrupted: How it ended, if it did before its time.
        """
        loop = _loop_in(self._file, interrupted)
        if loop is not None:
            self._store.add_once(loop)
        self._file.seek(0)
        self._file.truncate()
        return loop

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Put on record what an interrupt has left, and remove the journal."""
        loop = self.close_loop("its command was interrupted")
        if loop is not None:
            self._on_kept(loop)
        self._path.unlink()
        self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        # One line is whole or, where this process is killed meanwhile, has no end.
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def salvage(store: Store) -> Iterator[ControlLoop]:
    """Put on record, and give, what commands that were killed have left in a store; those at work are left alone.

    Raises:
        UsageError: A journal is not one of this version.
    """
    for path in sorted(store.folder.glob(PATTERN)):
        # Another command may have just ended.
        with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                loop = _loop_in(file, "its command was killed")
            except (ValueError, LookupError, AttributeError) as error:
                raise UsageError(f"{path} is no journal that this version reads; move it away") from error
            if loop is not None and store.add_once(loop):
                yield loop
            path.unlink(missing_ok=True)


def _loop_in(file: IO[bytes], interrupted: str) -> ControlLoop | None:
    """Return the loop that a journal tells of; None where too few cycles count."""
    file.seek(0)
    asked, found, parts = None, {}, []
    for line in file.read().split(b"\n")[:-1]:
        ((name, value),) = json.loads(line).items()
        if name == "asked":
            asked = LoopAsked.model_validate(value)
        elif name == "cycles":
            parts.append(Cycles.model_validate(value))
        else:
            found[name] = value
    if asked is None or sum(len(part.ticks) for part in parts) < asked.warmup_cycles + FEWEST_CYCLES:
        return None
    begun = LoopBegun.model_validate(found["begun"])
    ended = LoopEnded.model_validate(found["ended"]) if "ended" in found else None
    return ControlLoop(
        **asked.model_dump(),
        cycles=Cycles.joined(parts),
        ceilings=(begun.ceiling, ended.ceiling) if ended else (begun.ceiling,),
        environment=(ended or begun).environment,
        path=ended.path if ended else None,
        interrupted=None if ended else interrupted,
    )
