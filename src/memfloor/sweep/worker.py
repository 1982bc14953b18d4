"""A worker behind a pipe: `python -m memfloor.sweep.worker`, here or at the other end of an SSH connection.

It reads a `Setup` and then one order a line from standard input, and answers in marked lines on standard output, so
that what a login shell prints is told apart. The end of its input ends it at once, and the run that it is taking.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from memfloor.errors import UsageError
from memfloor.experiments.one_run import RunOrder
from memfloor.measure.nvml import Unanswered
from memfloor.record import record_text
from memfloor.sweep.place import Place, Setup

MARK = b"memfloor: "


def main() -> None:
    """Say what this machine is, then take one run after another until the driver ends the pipe."""
    say = _private_output()
    lines = _lines(sys.stdin.buffer)
    try:
        place = Place(Setup.model_validate_json(next(lines)))
    except (UsageError, Unanswered) as reason:
        say({"refused": str(reason)})
        return
    say({"hello": place.hello.model_dump()})
    for line in lines:
        record = place.take(RunOrder.model_validate_json(line), lambda event: say({"event": event}))
        say({"record": record_text(record)})


def _private_output() -> Callable[[Mapping[str, Any]], None]:
    """Return what writes an answer; whatever else prints here goes to standard error."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def say(answer: Mapping[str, Any]) -> None:
        output.write(MARK + json.dumps(answer).encode() + b"\n")
        output.flush()

    return say


def _lines(source: IO[bytes]) -> Iterator[bytes]:
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in source:
            waiting.put(line)
        # The driver has gone. The child dies with this process.
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


if __name__ == "__main__":
    main()
