"""Write a folder of thousands of runs, made from real ones, to see how long reading it takes.

Each copy of a run keeps its environment, ceilings and path, and has a context and a session of its own; its steps are
longer by a hundredth for each copy. Run: python benchmarks/many_records.py 10000 FOLDER
"""

import sys
import time
import uuid
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from memfloor.record import Run, Store

RESULTS = Path(__file__).parent.parent / "results"
LONGER = 0.01
NEXT_CONTEXT = 64
LONGEST_CONTEXT = 16384


def main() -> None:
    """Write as many runs as the first argument says into the folder that the second names."""
    if len(sys.argv) != 3 or not sys.argv[1].isdecimal():
        sys.exit(f"usage: {sys.argv[0]} RUNS FOLDER")
    runs, folder = int(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    store = Store(folder)
    for run in islice(_copies(), runs):
        store.add(run)
    print(f"{runs} runs in {time.perf_counter() - began:.1f} s")


def _copies() -> Iterator[Run]:
    found = [record for record in Store(RESULTS).contents().runs if isinstance(record, Run)]
    # Longer contexts must stay within their models.
    real = [run for run in found if run.cell.workload.context_len <= LONGEST_CONTEXT]
    for copy in count():
        sessions = {run.session_id: uuid.uuid4().hex for run in real}
        yield from (_copy(run, copy, sessions[run.session_id]) for run in real)


def _copy(run: Run, copy: int, session_id: str) -> Run:
    workload = run.cell.workload
    cell = run.cell.model_copy(
        update={"workload": workload.model_copy(update={"context_len": workload.context_len + NEXT_CONTEXT * copy})}
    )
    times = ("host_seconds", "device_seconds", "issue_seconds")
    steps = tuple(
        step.model_copy(
            update={name: value * (1 + LONGER * copy) for name in times if (value := getattr(step, name)) is not None}
        )
        for step in run.steps
    )
    return run.model_copy(
        update={"record_id": uuid.uuid4().hex, "session_id": session_id, "cell": cell, "steps": steps}
    )


if __name__ == "__main__":
    main()
