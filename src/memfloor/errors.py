"""The error a user caused and can mend; the command line prints it as one line and exits with 2."""

from collections.abc import Iterable

from pydantic import ValidationError


class UsageError(ValueError):
    """Say which value was refused and which ones are allowed."""

    @classmethod
    def unknown(cls, what: str, value: object, allowed: Iterable[str]) -> "UsageError":
        """Return the error for a name that is not in a catalogue or registry."""
        return cls(f"unknown {what} {value!r}; allowed: {', '.join(sorted(allowed))}")


def first_problem(error: ValidationError) -> str:
    """Return the first thing that pydantic found wrong, with the field it lies in."""
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
