"""Energy and power that Linux gives in files: RAPL counters of a processor, INA3221 monitors of a Jetson's rails."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memfloor.measure.nvml import Unanswered

# Sub-domains lie within their package, but for memory, which is counted beside it.
COUNTED_DOMAINS = ("package", "dram")
# Channels of one monitor; a fourth input is their sum.
INA_CHANNELS = (1, 2, 3)
# What feeds the whole module, so that the other rails are part of it. Source: NVIDIA's developer forum, thread 200883.
INPUT_RAIL = "VDD_IN"
UNCONNECTED = "NC"
MICRO = 1e-6


class RaplDomain:
    """Count the joules of one domain of the powercap interface, over the ends of its range."""

    def __init__(self, folder: Path) -> None:
        """Take the first reading.

        Raises:
            Unanswered: A file cannot be read, in the kernel's own words.
        """
        self.name = read_text(folder / "name")
        self._counter = folder / "energy_uj"
        self._range = read_number(folder / "max_energy_range_uj")
        self._last = read_number(self._counter)
        self._counted = 0

    def joules(self) -> float:
        """Return the energy since the construction; the counter may have come to its end once since the last call."""
        now = read_number(self._counter)
        # It starts again from zero after the largest number, which is one count of the counter before its range.
        self._counted += now - self._last if now >= self._last else now + self._range - self._last
        self._last = now
        return self._counted * MICRO


def rapl_domains(sysfs: Path) -> list[RaplDomain]:
    """Return the packages of the machine, and their memory where it is counted apart.

    Args:
        sysfs: Where sysfs is mounted.

    Raises:
        Unanswered: There are none, or they may not be read.
    """
    root = sysfs / "class" / "powercap"
    found = [
        RaplDomain(folder)
        for folder in sorted(root.glob("intel-rapl:*"))
        if (folder / "name").is_file() and read_text(folder / "name").startswith(COUNTED_DOMAINS)
    ]
    if not found:
        raise Unanswered(f"RAPL: not supported, for {root} has no package domain")
    return found


@dataclass(frozen=True, slots=True)
class Rail:
    """Name one channel of a monitor, whose files give millivolts and milliamperes.

    Source: Linux, Documentation/hwmon/ina3221.rst.
    """

    name: str
    volts: Path
    amperes: Path

    def watts(self) -> float:
        """Return its power."""
        return read_number(self.volts) * read_number(self.amperes) * MICRO


def jetson_rails(sysfs: Path) -> list[Rail]:
    """Return the rail that feeds the whole module, or all rails where none is known to.

    Args:
        sysfs: Where sysfs is mounted.

    Raises:
        Unanswered: There are none, or they may not be read.
    """
    root = sysfs / "class" / "hwmon"
    monitors = [folder for folder in sorted(root.glob("hwmon*")) if _is_ina3221(folder)]
    rails = [rail for folder in monitors for rail in _rails(folder)]
    if not rails:
        raise Unanswered(f"INA3221: not supported, for {root} has no rail of one")
    for rail in rails:
        rail.watts()
    return [rail for rail in rails if rail.name == INPUT_RAIL][:1] or rails


def jetson_period_seconds(sysfs: Path) -> float | None:
    """Return the longest time in which a monitor converts all its channels; None where no monitor says."""
    files = sorted((sysfs / "class" / "hwmon").glob("hwmon*/update_interval"))
    milliseconds = [read_number(path) for path in files if _is_ina3221(path.parent)]
    return max(milliseconds) * 1e-3 if milliseconds and max(milliseconds) > 0 else None


def _is_ina3221(folder: Path) -> bool:
    return (folder / "name").is_file() and read_text(folder / "name") == "ina3221"


def _rails(folder: Path) -> Sequence[Rail]:
    labels = {channel: folder / f"in{channel}_label" for channel in INA_CHANNELS}
    named = {channel: read_text(path) for channel, path in labels.items() if path.is_file()}
    return [
        Rail(name, folder / f"in{channel}_input", folder / f"curr{channel}_input")
        for channel, name in named.items()
        if name != UNCONNECTED and _is_enabled(folder / f"in{channel}_enable")
    ]


def _is_enabled(path: Path) -> bool:
    return not path.is_file() or read_number(path) != 0


def read_text(path: Path) -> str:
    """Return what a file of sysfs holds.

    Raises:
        Unanswered: It cannot be read, in the kernel's own words.
    """
    try:
        return path.read_text().strip()
    except OSError as error:
        raise Unanswered(f"{path}: {error.strerror or error}") from error


def read_number(path: Path) -> int:
    """Return the whole number that a file of sysfs holds.

    Raises:
        Unanswered: It cannot be read, or holds none.
    """
    text = read_text(path)
    try:
        return int(text)
    except ValueError as error:
        raise Unanswered(f"{path} holds {text!r} and no number") from error
