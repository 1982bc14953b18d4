"""The GPU that a run would use, as its driver's management library sees it, without a CUDA context."""

import os
from collections.abc import Callable
from typing import Any


class Unanswered(Exception):  # noqa: N818
    """Carry the library's own words for why it gave no answer."""


class NotInstalled(Unanswered):
    """Say that the library itself is missing."""


def ask(question: Callable[[Any, Any], Any]) -> Any:
    """Return what a question, given the library and its handle of the first visible GPU, answers.

    Raises:
        NotInstalled: The library is missing.
        Unanswered: No GPU answers, or not this question.
    """
    try:
        import pynvml
    except ImportError as error:
        raise NotInstalled("nvidia-ml-py is not installed") from error
    try:
        pynvml.nvmlInit()
        return question(pynvml, _first_visible(pynvml))
    except pynvml.NVMLError as error:
        raise Unanswered(str(error)) from error


def _first_visible(nvml: Any) -> Any:
    # Which GPU a process gets among several is said by this variable alone; the library itself does not heed it.
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or "0"
    return nvml.nvmlDeviceGetHandleByIndex(int(first)) if first.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(first)
