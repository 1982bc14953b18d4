"""An optional library of a runtime: whether it is here, loads, and is of a version that was tried."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec


@dataclass(frozen=True, slots=True)
class Library:
    """Name a library and the versions known to do what its runtime says of it.

    Attributes:
        name: Of the module.
        extra: The extra of this package that installs it.
        at_least: First version that was tried.
        below: First version that was not.
        package: Name of the distribution, where it is not that of the module.
        only_found: Modules that must be found, of a library whose import changes the process that asks.
    """

    name: str
    extra: str
    at_least: tuple[int, ...]
    below: tuple[int, ...]
    package: str | None = None
    only_found: tuple[str, ...] = ()

    def reason(self) -> str | None:
        """Say why the library cannot be used here, with the install line; None if it can."""
        # What a library warns of when it loads, or at every step, is answered here or recorded as the path.
        logging.getLogger(self.name).setLevel(logging.ERROR)
        install = f"pip install 'memfloor[{self.extra}]'"
        problem = self._missing() if self.only_found else self._not_loading()
        if problem is not None:
            return f"{problem}; {install}"
        found = version(self.package or self.name)
        if self.at_least <= _numbers(found) < self.below:
            return None
        return f"{self.name} {found} was not tried; {install}, which needs {self._range()}"

    def _missing(self) -> str | None:
        missing = first_missing(self.only_found)
        return f"{missing} is not installed" if missing else None

    def _not_loading(self) -> str | None:
        try:
            import_module(self.name)
        except ModuleNotFoundError as error:
            return f"{error.name} is not installed"
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            # What loading raises where a library was built for another torch, device or machine.
            return f"{self.name} does not load ({_first_line(error)})"
        return None

    def _range(self) -> str:
        lowest, highest = (".".join(map(str, numbers)) for numbers in (self.at_least, self.below))
        return f"{self.package or self.name}>={lowest},<{highest}"


def first_missing(names: Iterable[str]) -> str | None:
    """Return the first module that cannot be found, without importing any; None if all can."""
    return next((name for name in names if not _is_found(name)), None)


def _is_found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        # Of a package above it, or of an importer that blocks it.
        return False


def _numbers(found: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", found)[:3])


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
