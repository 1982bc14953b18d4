"""The devices of the catalogue: datasheet peaks, size and sources, found by name or by the driver's name."""

import tomllib
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, Field

from memfloor.errors import UsageError


class MemorySystem(BaseModel):
    """Describe the memory of one device as its datasheet does; measured figures live in records.

    Attributes:
        driver_names: What its driver calls it.
        bf16_flop_per_second: Peak of dense bf16 products on its tensor cores; None where the vendor gives none.
        bf16_source: Where the vendor does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    driver_names: tuple[str, ...] = ()
    peak_bytes_per_second: float = Field(gt=0)
    memory_bytes: int = Field(gt=0)
    last_level_cache_bytes: int = Field(gt=0)
    source: str
    bf16_flop_per_second: float | None = Field(default=None, gt=0)
    bf16_source: str | None = None


@cache
def catalogue() -> dict[str, MemorySystem]:
    """Return every device of the catalogue by its short name."""
    entries = tomllib.loads((files("memfloor") / "data" / "devices.toml").read_text())
    return {name: MemorySystem(name=name, **entry) for name, entry in entries.items()}


def find_device(name: str) -> MemorySystem:
    """Return a device by its short name or by its exact driver name.

    Raises:
        UsageError: Nothing of that name is in the catalogue, so no peak is known.
    """
    device = catalogue().get(name) or match_driver_name(name)
    if device is None:
        raise UsageError.unknown("device", name, catalogue())
    return device


def short_name(driver_name: str) -> str:
    """Return a device's name in the catalogue, or its driver's where it has none there."""
    device = match_driver_name(driver_name)
    return device.name if device else driver_name


def match_driver_name(driver_name: str) -> MemorySystem | None:
    """Return the device a driver calls by exactly this name, or None: a near miss has another bandwidth."""
    return next((device for device in catalogue().values() if driver_name in device.driver_names), None)
