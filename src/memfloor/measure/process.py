"""A fresh child process per run: started, watched, ended in time, and its last words kept."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal

LAST_WORDS_CHARACTERS = 2000
# How often a silent child is looked after: its own children can hold its pipe open beyond its end.
LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """Say how a child ended.

    Attributes:
        exit_status: 0, a positive exit status, or minus the signal that ended it.
        timed_out: Whether it was ended for running too long.
        last_words: The end of what it printed.
    """

    exit_status: int
    timed_out: bool
    last_words: str

    def describe(self) -> str:
        """Return the end in words."""
        if self.exit_status >= 0:
            return f"exit status {self.exit_status}"
        number = -self.exit_status
        # Real-time signals have numbers alone.
        named = number in {known.value for known in signal.Signals}
        return f"ended by {signal.Signals(number).name if named else f'signal {number}'}"

    @property
    def last_line(self) -> str:
        """Return the last line that it printed."""
        return self.last_words.splitlines()[-1] if self.last_words else "no last words"

    @property
    def cause(self) -> Literal["died", "timed_out", "error"]:
        """Return how a child was lost that did not answer."""
        if self.timed_out:
            return "timed_out"
        return "died" if self.exit_status < 0 else "error"


def run_child(
    module: str,
    job: str,
    time_limit_seconds: float,
    on_event: Callable[[Mapping[str, Any]], None],
) -> ChildOutcome:
    """Run `python -m module` with a job on standard input; pass on each JSON line it writes to its event pipe.

    The child leads its own process group, which is killed when time is up, when this call is interrupted, and
    (by the kernel) when this process dies.

    Args:
        module: Module to run; it finds the event pipe's descriptor as its only argument.
        job: Text for its standard input.
        time_limit_seconds: Time after which it is killed.
        on_event: Called with each event.
    """
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as log, os.fdopen(reader, "rb") as events:
        child = subprocess.Popen(
            [sys.executable, "-m", module, str(writer)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(writer,),
            start_new_session=True,
        )
        os.close(writer)
        try:
            timed_out = _converse(child, job, events, time.monotonic() + time_limit_seconds, on_event)
        finally:
            _kill_group(child)
            exit_status = child.wait()
        return ChildOutcome(exit_status, timed_out, _tail(log))


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere do nothing."""
    import ctypes

    pr_set_pdeathsig = 1
    parent = os.getppid()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def _converse(
    child: subprocess.Popen[bytes],
    job: str,
    events: IO[bytes],
    deadline: float,
    on_event: Callable[[Mapping[str, Any]], None],
) -> bool:
    assert child.stdin is not None
    # A child that dies before it reads its job is reported by its exit status.
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(job.encode())
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(events, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(timeout=min(left, LOOK_SECONDS)):
                if child.poll() is not None:
                    return False
                continue
            chunk = os.read(events.fileno(), 1 << 20)
            if not chunk:
                return _outlives(child, deadline)
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                on_event(json.loads(line))
    return True


def _outlives(child: subprocess.Popen[bytes], deadline: float) -> bool:
    try:
        child.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return True
    return False


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - LAST_WORDS_CHARACTERS))
    return log.read().decode(errors="replace").strip()
