"""Read a trace that torch.profiler exported: spans of the host and of the device, with what ties them."""

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

import ijson

from memfloor.errors import UsageError

Category = Literal["kernel", "launch", "op", "annotation"]
# The categories of Kineto's events that matter here, and what they are to us.
CATEGORIES: dict[str, Category] = {
    "kernel": "kernel",
    "gpu_memcpy": "kernel",
    "gpu_memset": "kernel",
    "cuda_runtime": "launch",
    "cuda_driver": "launch",
    "cpu_op": "op",
    "user_annotation": "annotation",
}
MICROSECOND = 1e-6
# What export_chrome_trace writes near the beginning of a file; another version may use other units.
SCHEMA_VERSION = 1
HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Span:
    """Hold one event with a duration.

    Attributes:
        category: A kernel of the device, a driver call, an operator of the framework or an annotation.
        name: Its name.
        start: Seconds since the first event of the trace.
        seconds: Duration.
        lane: The stream of a kernel, the thread of anything else.
        correlation: What a kernel and the call that launched it share; None elsewhere.
    """

    category: Category
    name: str
    start: float
    seconds: float
    lane: int
    correlation: int | None

    @property
    def end(self) -> float:
        """Return the end in seconds since the first event of the trace."""
        return self.start + self.seconds


def read_trace(path: Path) -> list[Span]:
    """Return the spans of a trace, in the order of their start; the file may be gzipped and is read as a stream.

    Raises:
        UsageError: The file is missing, cut short, or no trace of torch.profiler of a version that is known.
    """
    try:
        with path.open("rb") as file, _plain(file) as plain:
            _check_version(path, plain.peek(HEAD_BYTES))
            spans = list(_spans(plain))
    except (OSError, EOFError, zlib.error, ijson.JSONError) as error:
        raise UsageError(f"{path} is not a whole JSON trace: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UsageError(f"{path} holds an event that torch.profiler does not write: {error!r}") from error
    if not spans:
        raise UsageError(f"{path} holds no event of torch.profiler; allowed: a file of export_chrome_trace")
    first = min(start for _, _, start, _, _, _ in spans)
    return sorted(
        (
            Span(category, name, (start - first) * MICROSECOND, duration * MICROSECOND, lane, correlation)
            for category, name, start, duration, lane, correlation in spans
        ),
        # An outer span starts no later than what it holds.
        key=lambda span: (span.start, -span.seconds),
    )


def _plain(file: BufferedReader) -> gzip.GzipFile | BufferedReader:
    start = file.read(2)
    file.seek(0)
    # The magic bytes of gzip.
    return gzip.GzipFile(fileobj=file) if start == b"\x1f\x8b" else file


def _check_version(path: Path, head: bytes) -> None:
    found = re.search(rb'"schemaVersion"\s*:\s*(\d+)', head)
    if found and int(found.group(1)) != SCHEMA_VERSION:
        raise UsageError(f"{path} has schemaVersion {int(found.group(1))}; allowed: {SCHEMA_VERSION}")


def _spans(file: gzip.GzipFile | BufferedReader) -> Iterator[tuple[Category, str, float, float, int, int | None]]:
    for event in ijson.items(file, "traceEvents.item", use_float=True):
        category = CATEGORIES.get(event.get("cat"))
        if category is not None and event["ph"] == "X":
            start, duration = float(event["ts"]), float(event["dur"])
            if not (math.isfinite(start) and 0 <= duration < math.inf):
                raise ValueError(f"{event['name']} lasts {duration} us from {start}")
            yield category, _name(event["name"]), start, duration, *_place(category, event)


def _name(name: str) -> str:
    # The nodes of a graph that set and copy memory have other names than the calls they were captured from.
    if name.startswith("Memset ("):
        return "Memset"
    return "Memcpy DtoD" if name.startswith("Memcpy DtoD") or re.fullmatch(r"memcpy\d*_post(_faster)?", name) else name


def _place(category: Category, event: dict[str, Any]) -> tuple[int, int | None]:
    details = event.get("args", {})
    if category == "kernel":
        return int(details["stream"]), int(details["correlation"])
    return int(event["tid"]), details.get("correlation") if category == "launch" else None
