"""Live progress of a session, drawn by the parent process alone, on standard error."""

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from memfloor.record import Cell, Failure, Run, Skip
from memfloor.report.tables import runtime_label
from memfloor.units import format_bandwidth, format_seconds


class Screen:
    """Leave lines on standard error, and below them show what goes on where there is a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        # Drawn when something has happened and not by a clock of its own, beside a run that is being timed.
        shown = sys.stderr.isatty()
        self._live = Live(Text(""), console=self._console, transient=True, auto_refresh=False) if shown else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def leave(self, text: str) -> None:
        """Leave a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, text: str) -> None:
        """Show text in place of the last that was shown."""
        if self._live:
            self._live.update(Text(text), refresh=True)


class SessionProgress(Screen):
    """Show the cell, the run, its step time so far and the time left; plain lines where there is no terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._heading = ""
        self._phase = ""
        self._steps = ""
        self._left = ""

    def run_started(self, cell: Cell, done: int, total: int) -> None:
        """Start the line of a run."""
        self._heading = f"[{done + 1}/{total}] {describe(cell)}"
        self._phase, self._steps = "starting", ""
        self._draw()

    def run_event(self, event: Mapping[str, Any]) -> None:
        """Follow a phase or a few more steps."""
        if event["event"] == "phase":
            self._phase = event["phase"]
        else:
            self._steps = f", {event['count']} steps, {format_seconds(event['p50_seconds'])}"
        self._draw()

    def run_ended(self, record: Run | Failure | Skip, done: int, total: int, seconds_left: float) -> None:
        """Leave one line about a finished run."""
        self._left = f", about {seconds_left:.0f} s left" if seconds_left else ""
        self.leave(f"[{done}/{total}] {describe(record.cell)}: {outcome(record)}{self._left}")

    def _draw(self) -> None:
        self.show(f"{self._heading}: {self._phase}{self._steps}{self._left}")


def describe(cell: Cell) -> str:
    """Return a cell in a few words."""
    workload = cell.workload
    size = f" batch {workload.batch}" if workload.batch > 1 else ""
    return f"{cell.spec.name} {runtime_label(cell)} ctx {workload.context_len}{size}"


def outcome(record: Run | Failure | Skip) -> str:
    """Return what became of a run in a few words."""
    match record:
        case Run():
            ceiling = format_bandwidth(record.ceiling_bytes_per_second)
            return f"{format_seconds(record.p50_seconds)} a step beside a ceiling of {ceiling}"
        case Failure():
            return record.lost_reason
        case Skip():
            return f"skipped: {record.reason}"
