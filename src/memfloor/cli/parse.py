"""Texts of the command line that hold more than one value."""

from memfloor.errors import UsageError
from memfloor.record import parse_runtime

__all__ = ["check_margin", "parse_counts", "parse_runtime"]

_UNITS = {"": 1, "k": 1024}


def parse_counts(text: str, what: str) -> list[int]:
    """Return the whole numbers of a comma list such as `512,2k`, each above zero, in order, without repeats.

    Raises:
        UsageError: A part is no number, has an unknown unit, or is not above zero.
    """
    counts = [_parse_count(part.strip(), what) for part in text.split(",")]
    return list(dict.fromkeys(counts))


def check_margin(margin: float) -> None:
    """Refuse a margin that is no share between nothing and all.

    Raises:
        UsageError: It is not above 0 and below 1.
    """
    if not 0 < margin < 1:
        raise UsageError(f"margin must be above 0 and below 1, not {margin}")


def _parse_count(part: str, what: str) -> int:
    digits = part.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = part[len(digits) :]
    try:
        number = int(digits)
    except ValueError:
        raise UsageError(f"{what} {part!r} is not a whole number; give a comma list such as 512,2048 or 2k") from None
    if unit not in _UNITS:
        raise UsageError(f"unknown unit {unit!r} in {what} {part!r}; allowed: none, or k for 1024")
    if number < 1:
        raise UsageError(f"{what} must be 1 or more, not {part}")
    return number * _UNITS[unit]
