"""What an hour of a device costs: a rented one by its price list, an owned one by its price, its life and its power."""

import datetime
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memfloor.errors import UsageError, first_problem

HOURS_PER_YEAR = 365.25 * 24
WATTS_PER_KILOWATT = 1000.0


class _Priced(BaseModel):
    """Say who asked for so much, in which currency, and when; amounts of different currencies are never added."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = Field(pattern=r"^[A-Z]{3}$")
    date: datetime.date
    source: str


class Electricity(_Priced):
    """Hold the price of a kilowatt-hour."""

    per_kwh: float = Field(ge=0)


class Ownership(BaseModel):
    """Say how an owned device is used.

    Attributes:
        years: Until it is worth nothing, and pays for itself evenly until then.
        utilisation: Share of these years in which it decodes; the rest is paid for all the same, but takes no power.
        electricity: What its power costs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    years: float = Field(default=3.0, gt=0)
    utilisation: float = Field(default=1.0, gt=0, le=1)
    electricity: Electricity

    @classmethod
    def of(cls, years: float, utilisation: float, electricity: Electricity) -> "Ownership":
        """Return the terms.

        Raises:
            UsageError: Years or utilisation are out of their range.
        """
        try:
            return cls(years=years, utilisation=utilisation, electricity=electricity)
        except ValidationError as error:
            raise UsageError(first_problem(error)) from error


class _DevicePrice(_Priced):
    """Name the device, and who rents or sells it."""

    device: str
    provider: str


class RentedPrice(_DevicePrice):
    """Hold what an hour of a rented device costs, its host's processor and memory left out."""

    per_hour: float = Field(gt=0)

    def hourly(self, ownership: Ownership, watts: float | None = None) -> float:
        """Return the cost of an hour of decoding, which neither the terms of ownership nor power touch."""
        return self.per_hour


class OwnedPrice(_DevicePrice):
    """Hold what a device costs to buy, and the power that its maker says it takes."""

    price: float = Field(gt=0)
    watts: float = Field(ge=0)

    def hourly(self, ownership: Ownership, watts: float | None = None) -> float:
        """Return the cost of an hour of decoding: the share of the price that falls on it, and its power.

        Args:
            ownership: How the device is used.
            watts: Power that was measured while it decoded; that of the price list unless given.

        Raises:
            UsageError: Electricity is priced in another currency.
        """
        if ownership.electricity.currency != self.currency:
            raise UsageError(
                f"{self.device} is priced in {self.currency} and electricity in {ownership.electricity.currency}; "
                "give both in one currency"
            )
        share = self.price / (ownership.years * HOURS_PER_YEAR * ownership.utilisation)
        taken = self.watts if watts is None else watts
        return share + taken / WATTS_PER_KILOWATT * ownership.electricity.per_kwh


Price = RentedPrice | OwnedPrice
P = TypeVar("P", bound=_Priced)


class PriceList(BaseModel):
    """Hold the prices of devices and of electricity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    electricity: Electricity | None = None
    rented: tuple[RentedPrice, ...] = ()
    owned: tuple[OwnedPrice, ...] = ()

    @property
    def devices(self) -> tuple[Price, ...]:
        """Return every price of a device."""
        return (*self.rented, *self.owned)

    def of(self, device: str) -> list[Price]:
        """Return every price of a device, by its short name."""
        return [price for price in self.devices if price.device == device]

    def beneath(self, own: "PriceList") -> "PriceList":
        """Return the prices of another list, and of this one those of devices that the other does not name."""
        named = {price.device for price in own.devices}
        return PriceList(
            electricity=own.electricity or self.electricity,
            rented=(*(price for price in self.rented if price.device not in named), *own.rented),
            owned=(*(price for price in self.owned if price.device not in named), *own.owned),
        )


@cache
def catalogue() -> PriceList:
    """Return the prices of the catalogue."""
    return PriceList.model_validate(tomllib.loads((files("memfloor") / "data" / "prices.toml").read_text()))


def read_prices(path: Path) -> PriceList:
    """Return the prices of a file of the catalogue's form, data/prices.toml.

    Raises:
        UsageError: The file cannot be read, is not TOML, or a price lacks its currency, date, provider or source.
    """
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    try:
        return PriceList.model_validate(raw)
    except ValidationError as error:
        raise UsageError(f"{path}: {first_problem(error)}") from error


def parse_price(text: str) -> RentedPrice:
    """Return the hourly price in a text such as `h200=3.50:USD:2026-11-27`.

    Raises:
        UsageError: A part is missing, or the amount is no number above zero.
    """
    device, _, rest = text.partition("=")
    if not device or not rest:
        raise UsageError(f"price {text!r} is not of the form DEVICE=AMOUNT:CURRENCY:DATE, as h200=3.50:USD:2026-11-27")
    return _parsed(RentedPrice, f"price {text!r}", rest, "per_hour", {"device": device, "provider": "given"})


def parse_electricity(text: str) -> Electricity:
    """Return the price of a kilowatt-hour in a text such as `0.30:EUR:2026-11-27`.

    Raises:
        UsageError: A part is missing, or the amount is no number from zero on.
    """
    return _parsed(Electricity, f"electricity {text!r}", text, "per_kwh", {})


def _parsed(kind: type[P], what: str, text: str, amount: str, fields: dict[str, str]) -> P:
    parts = text.split(":")
    if len(parts) != 3:
        raise UsageError(f"{what} needs AMOUNT:CURRENCY:DATE, as 3.50:USD:2026-11-27")
    given = dict(zip((amount, "currency", "date"), parts, strict=True)) | fields | {"source": "given"}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise UsageError(f"{what}: {first_problem(error)}") from error
