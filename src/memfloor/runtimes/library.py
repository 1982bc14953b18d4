"""An optional library of a runtime: whether it is here, loads, and is of a version that was tried."""

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version


@dataclass(frozen=True, slots=True)
class Library:
    """Name a library and the versions known to do what its runtime says of it.

    Attributes:
        name: Of the module.
        extra: The extra of this package that installs it.
        at_least: First version that was tried.
        below: First version that was not.
        package: Name of the distribution, where it is not that of the module.
    """

    name: str
    extra: str
    at_least: tuple[int, ...]
    below: tuple[int, ...]
    package: str | None = None

    def reason(self) -> str | None:
        """Say why the library cannot be used here, with the install line; None if it can."""
        install = f"pip install 'memfloor[{self.extra}]'"
        try:
            import_module(self.name)
        except ModuleNotFoundError as error:
            return f"{error.name} is not installed; {install}"
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            # What loading raises where a library was built for another torch, device or machine.
            return f"{self.name} does not load ({_first_line(error)}); {install}"
        found = version(self.package or self.name)
        if self.at_least <= _numbers(found) < self.below:
            return None
        return f"{self.name} {found} was not tried; {install}, which needs {self._range()}"

    def _range(self) -> str:
        lowest, highest = (".".join(map(str, numbers)) for numbers in (self.at_least, self.below))
        return f"{self.package or self.name}>={lowest},<{highest}"


def _numbers(found: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", found)[:3])


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
