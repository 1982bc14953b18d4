"""GPU 0 as its driver's management library sees it, without a CUDA context."""

from collections.abc import Callable
from typing import Any


class Unanswered(Exception):  # noqa: N818
    """Carry the library's own words for why it gave no answer."""


class NotInstalled(Unanswered):
    """Say that the library itself is missing."""


def ask(question: Callable[[Any, Any], Any]) -> Any:
    """Return what a question, given the library and its handle of GPU 0, answers.

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
        return question(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError as error:
        raise Unanswered(str(error)) from error
