"""The GPU that CUDA calls 0 here, as its driver's management library sees it, without a CUDA context."""

import os
from collections.abc import Callable
from typing import Any


class Unanswered(Exception):  # noqa: N818
    """Carry the library's own words for why it gave no answer."""


class NotInstalled(Unanswered):
    """Say that the library itself is missing."""


def ask(question: Callable[[Any, Any], Any]) -> Any:
    """Return what a question, given the library and its handle of the GPU that this process would use, answers.

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
    """Return the handle of the first GPU that CUDA_VISIBLE_DEVICES names, by index or UUID; of index 0 where unset.

    NVML counts GPUs by their place on the bus and ignores that variable. CUDA counts so too among GPUs of one kind.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or "0"
    return nvml.nvmlDeviceGetHandleByIndex(int(first)) if first.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(first)
