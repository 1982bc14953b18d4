"""The end of a worker that lives in a Ray cluster: an actor that has its CPUs or a whole GPU for itself.

Ray is not imported here: the driver makes an actor of the class.
"""

import json
import os
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil

from memfloor.errors import UsageError
from memfloor.experiments.one_run import RunOrder
from memfloor.measure.nvml import Unanswered
from memfloor.record import Failure, record_text
from memfloor.sweep.place import Place, Setup

# When a node is lost Ray may end a worker's children before the worker itself: a run that died is told of only where
# the worker has outlived it for so long. Else the worker is lost, and the run taken again.
OUTLIVED_SECONDS = 3.0


class RemoteWorker:
    """Take runs in fresh child processes, as the worker behind a pipe does."""

    def hello(self, setup: str) -> str:
        """Take a place on this node, and say what it is or why it cannot be had."""
        try:
            _leave_no_trace_of_ray()
            self._place = Place(Setup.model_validate_json(setup))
        except (UsageError, Unanswered) as reason:
            return json.dumps({"refused": str(reason)})
        return json.dumps({"hello": self._place.hello.model_dump()})

    def take(self, order: str) -> Iterator[str]:
        """Take one run; give its events, and its record at the end."""
        answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

        def work() -> None:
            record = self._place.take(RunOrder.model_validate_json(order), lambda event: answers.put({"event": event}))
            if isinstance(record, Failure) and record.cause == "died":
                time.sleep(OUTLIVED_SECONDS)
            answers.put({"record": record_text(record)})

        # The child dies with the thread that started it, which is this one.
        thread = threading.Thread(target=work)
        thread.start()
        while "record" not in (answer := _next(answers, thread)):
            yield json.dumps(answer)
        thread.join()
        yield json.dumps(answer)


def _next(answers: "queue.SimpleQueue[dict[str, Any]]", thread: threading.Thread) -> dict[str, Any]:
    while True:
        try:
            return answers.get(timeout=1.0)
        except queue.Empty:
            if not thread.is_alive() and answers.empty():
                raise RuntimeError("the run ended without a record; see the worker's log") from None


def _leave_no_trace_of_ray() -> None:
    """Undo what Ray does to its workers and a run would inherit: fewer threads, and a lower priority.

    Raises:
        UsageError: This user may not raise the priority.
    """
    os.environ.pop("OMP_NUM_THREADS", None)
    niceness = psutil.Process(os.getppid()).nice()
    if os.getpriority(os.PRIO_PROCESS, 0) > niceness:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, niceness)
        except PermissionError as error:
            raise UsageError(
                "Ray lowers the priority of its workers, and with it that of runs; start its nodes with "
                "RAY_worker_niceness=0 in their environment"
            ) from error
