"""The driver's end of a worker: an interface that all executors share, and the workers behind a pipe."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Protocol

from memfloor.errors import UsageError
from memfloor.experiments.one_run import OnEvent, RunOrder
from memfloor.record import Failure, Run, Skip, read_record
from memfloor.sweep.place import Hello, Setup
from memfloor.sweep.worker import MARK

WORKER_MODULE = "memfloor.sweep.worker"
# Time in which a worker whose input has ended is expected to end by itself.
END_SECONDS = 2.0
# A connection that says nothing for so long, so many times, is lost.
SSH_OPTIONS = (
    *("-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"),
)


class WorkerLost(Exception):  # noqa: N818
    """Say why a worker does not answer any more."""


class Worker(Protocol):
    """Take runs on some machine, one after another."""

    hello: Hello

    def take(self, order: RunOrder, on_event: OnEvent) -> Run | Failure | Skip:
        """Take one run in a fresh process.

        Raises:
            WorkerLost: It cannot be known what became of the run.
        """

    def stop(self) -> None:
        """End the worker and whatever it is taking; also while another thread waits for it."""

    def close(self) -> None:
        """End the worker, and let go of what is left of it; called by nobody else meanwhile."""


class PipeWorker:
    """Be a worker whose standard input and output are pipes, here or at the other end of an SSH connection."""

    def __init__(self, command: list[str], setup: Setup) -> None:
        """Start the worker and wait until it has said what it is.

        Raises:
            UsageError: It refuses to be what is wanted.
            WorkerLost: It does not come up.
        """
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerLost(f"cannot start {command[0]}: {error.strerror or error}") from error
        try:
            self._say(setup.model_dump_json())
            answer = self._hear()
            if "refused" in answer:
                raise UsageError(answer["refused"])
            self.hello = Hello.model_validate(answer["hello"])
        except BaseException:
            self.close()
            raise

    def take(self, order: RunOrder, on_event: OnEvent) -> Run | Failure | Skip:
        """Take one run in a fresh process; see `Worker`."""
        self._say(order.model_dump_json())
        while "event" in (answer := self._hear()):
            on_event(answer["event"])
        return parse_answer(answer["record"], order)

    def stop(self) -> None:
        """End the worker; see `Worker`."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """End the worker and close its pipes; see `Worker`."""
        self.stop()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    def _say(self, text: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise WorkerLost(self._last_words()) from error

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK) and line.endswith(b"\n"):
                answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return answer
        raise WorkerLost(self._last_words())

    def _last_words(self) -> str:
        status = self._process.wait()
        end = f"exit status {status}" if status >= 0 else f"ended by {signal.Signals(-status).name}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"{end}; {said[-1]}" if said else end


def parse_answer(text: str, order: RunOrder) -> Run | Failure | Skip:
    """Return the record that a worker sent.

    Raises:
        WorkerLost: It is none, or of another run than was ordered.
    """
    record = read_record(text.encode(), Path("worker"))
    if not isinstance(record, Run | Failure | Skip):
        raise WorkerLost(f"sent no record of a run: {getattr(record, 'reason', record.__class__.__name__)}")
    if (record.record_id, record.cell, record.block) != (order.record_id, order.cell, order.block):
        raise WorkerLost("sent the record of another run")
    return record


def local_command() -> list[str]:
    """Return the command of a worker on this machine."""
    return [sys.executable, "-m", WORKER_MODULE]


def ssh_command(host: str, python: str) -> list[str]:
    """Return the command of a worker on a host that lets this user in without asking."""
    return ["ssh", *SSH_OPTIONS, "--", host, f"exec {shlex.quote(python)} -m {WORKER_MODULE}"]
