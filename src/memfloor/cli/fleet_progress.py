"""Live progress of all workers of a sweep, drawn by the driver alone, on standard error."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memfloor.cli.progress import Screen, describe, outcome
from memfloor.record import Cell, Failure, Run, Skip
from memfloor.units import format_seconds

if TYPE_CHECKING:
    from memfloor.sweep.place import Hello


class FleetProgress(Screen):
    """Show a line for each worker; plain lines about what has ended where there is no terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: dict[str, str] = {}
        self._headings: dict[str, str] = {}
        self._begin = time.monotonic()

    def worker_ready(self, worker: str, hello: "Hello") -> None:
        """Leave a line about a worker that is there."""
        cpus = f"{len(hello.cpus)} CPUs"
        self.leave(f"{worker}: {hello.device}, {cpus}, {', '.join(map(' '.join, sorted(hello.packages.items())))}")
        self._draw(worker, "idle")

    def run_started(self, worker: str, cell: Cell, block: int) -> None:
        """Start the line of a run."""
        self._headings[worker] = f"{describe(cell)} #{block}"
        self._draw(worker, f"{self._headings[worker]}: starting")

    def run_event(self, worker: str, event: Mapping[str, Any]) -> None:
        """Follow a phase or a few more steps."""
        steps = event["event"] == "steps"
        words = f"{event['count']} steps, {format_seconds(event['p50_seconds'])}" if steps else event["phase"]
        self._draw(worker, f"{self._headings[worker]}: {words}")

    def run_ended(self, worker: str, record: Run | Failure | Skip, done: int, total: int) -> None:
        """Leave one line about a finished run."""
        left = (time.monotonic() - self._begin) / done * (total - done)
        tail = f", about {left:.0f} s left" if done < total else ""
        self.leave(f"[{done}/{total}] {worker}: {describe(record.cell)} #{record.block}: {outcome(record)}{tail}")
        self._draw(worker, "idle")

    def worker_lost(self, worker: str, reason: str) -> None:
        """Leave a line about a lost worker."""
        self.leave(f"{worker}: lost: {reason}")
        self._draw(worker, "lost, calling again")

    def worker_ended(self, worker: str) -> None:
        """Take the line of a worker away."""
        self._lines.pop(worker, None)
        self._refresh()

    def _draw(self, worker: str, text: str) -> None:
        self._lines[worker] = text
        self._refresh()

    def _refresh(self) -> None:
        self.show("\n".join(f"{worker}: {text}" for worker, text in sorted(self._lines.items())))
