"""Names of kernels as a reader can take them in: no return type, namespaces, arguments, nor most of a template."""

import re
from collections.abc import Iterable

LONGEST = 60
FUNCTOR = re.compile(r"(\w+Functor|\w+_kernel_cuda)\b")
# Of the elementwise family: all operators share the outer functor, and only the inner one tells them apart.
OUTER = {"BinaryFunctor", "UnaryFunctor", "AUnaryFunctor", "BUnaryFunctor"}


def short_name(name: str) -> str:
    """Return a kernel's name in a few words; one that is no C++ signature stays as it is, up to its length.

    Args:
        name: As the profiler gives it, which may have been cut off anywhere.
    """
    text = name.removeprefix("void ")
    head = re.split(r"[<(]", text, maxsplit=1)[0]
    if head == text and "::" not in text:
        return text[:LONGEST]
    functors = [word for word in FUNCTOR.findall(text[len(head) :]) if word not in OUTER]
    return head.rpartition("::")[2] + (f" ({functors[0]})" if functors else "")


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return a short name for each of several kernels; those that would share one are told apart by their templates."""
    given = list(dict.fromkeys(names))
    short = {name: short_name(name) for name in given}
    shared = {text for text in short.values() if list(short.values()).count(text) > 1}
    return {name: f"{text} {_difference(name)}" if text in shared else text for name, text in short.items()}


def _difference(name: str) -> str:
    """Return the first template arguments, without namespaces, by which instances of one kernel differ."""
    arguments = re.sub(r"(\w+::)+", "", name.partition("<")[2])
    return f"<{arguments[:LONGEST]}" if arguments else name[-LONGEST:]
