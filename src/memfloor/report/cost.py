"""What a million tokens cost at batch 1: measured and published steps times the prices of their devices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from memfloor.errors import UsageError
from memfloor.hardware import catalogue as devices
from memfloor.prices import OwnedPrice, Ownership, Price, PriceList, catalogue
from memfloor.report.energy import EnergySummary
from memfloor.report.paper import published, published_steps
from memfloor.report.summary import CellSummary
from memfloor.report.tables import runtime_label
from memfloor.units import MILLION, SECONDS_PER_HOUR

Origin = Literal["measured", "published", "published, implied"]


@dataclass(frozen=True, slots=True)
class CostRow:
    """Hold the cost of one device, path and price.

    Attributes:
        device: Short name of the device.
        path: Runtime, options and formats; of a published step the study's words.
        model: What is decoded.
        context_len: Tokens in the KV cache.
        batch: Sequences decoded together.
        origin: Who says how long a step takes.
        step_seconds: Median step.
        step_ci95_seconds: Its interval over runs; None where there is none.
        runs: Runs behind it; None for a published step.
        price: The price.
        per_hour: What an hour of decoding costs by it, in its currency.
        power: What an owned device takes; None for a rented one.
    """

    device: str
    path: str
    model: str
    context_len: int
    batch: int
    origin: Origin
    step_seconds: float
    step_ci95_seconds: tuple[float, float] | None
    runs: int | None
    price: Price
    per_hour: float
    power: "Power | None" = None

    @property
    def per_million_tokens(self) -> float:
        """Return what a million tokens cost."""
        return self._cost_of(self.step_seconds)

    @property
    def ci95(self) -> tuple[float, float] | None:
        """Return the interval that the step's gives the cost; a price has none."""
        if self.step_ci95_seconds is None:
            return None
        low, high = self.step_ci95_seconds
        return self._cost_of(low), self._cost_of(high)

    @property
    def tokens_per_hour(self) -> float:
        """Return the tokens that an hour of decoding gives."""
        return self.batch / self.step_seconds * SECONDS_PER_HOUR

    def break_even(self, api_per_million: float) -> "BreakEven":
        """Return what it would take to cost as much as an API, in the price's currency."""
        return BreakEven(
            times=self.per_million_tokens / api_per_million,
            step_seconds=api_per_million / MILLION * SECONDS_PER_HOUR * self.batch / self.per_hour,
        )

    def to_json(self, api_per_million: float | None) -> dict[str, Any]:
        """Return the row as plain data for `--json`."""
        even = None if api_per_million is None else self.break_even(api_per_million)
        return {
            "device": self.device,
            "path": self.path,
            "model": self.model,
            "context": self.context_len,
            "batch": self.batch,
            "origin": self.origin,
            "step_seconds": self.step_seconds,
            "runs": self.runs,
            "per_million_tokens": self.per_million_tokens,
            "ci95": self.ci95,
            "currency": self.price.currency,
            "per_hour": self.per_hour,
            "tokens_per_hour": self.tokens_per_hour,
            "price": self.price.model_dump(mode="json"),
            "power": self.power and {"watts": self.power.watts, "source": self.power.source},
            "break_even": even and {"times": even.times, "step_seconds": even.step_seconds},
        }

    def _cost_of(self, step_seconds: float) -> float:
        return self.per_hour / SECONDS_PER_HOUR * step_seconds / self.batch * MILLION


@dataclass(frozen=True, slots=True)
class Power:
    """Hold the power of an owned device while it decodes.

    Attributes:
        watts: How much.
        sensor: Who measured it, for the same cell on the same device; None where it is the price list's.
    """

    watts: float
    sensor: str | None = None

    @property
    def source(self) -> str:
        """Say whose it is."""
        return f"measured by {self.sensor}" if self.sensor else "price list"


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Hold what lies between one stream of one's own and an API.

    Attributes:
        times: What the stream costs over what the API does; so many streams in the same step would cost as much.
        step_seconds: The step at which one stream would cost as much.
    """

    times: float
    step_seconds: float


def cost_rows(
    summaries: Sequence[CellSummary],
    prices: PriceList,
    ownership: Ownership,
    with_published: bool = True,
    energies: Sequence[EnergySummary] = (),
) -> list[CostRow]:
    """Return a row for each measured cell and price of its device, and for each published one; the cheapest first.

    Args:
        summaries: The measured cells.
        prices: What devices cost.
        ownership: How an owned device is used.
        with_published: Whether the study's steps are priced too.
        energies: Where one is of the same cell and device, its watts are an owned device's.

    Raises:
        UsageError: A price is of a device that is neither in the catalogue nor measured, or an owned device and
            electricity are priced in different currencies.
    """
    _check_devices(prices, summaries)
    measured = {(energy.device.name, energy.cell.key): energy for energy in energies}
    rows = [
        row
        for summary in summaries
        for row in _measured(summary, prices, ownership, measured.get((summary.device.name, summary.cell.key)))
    ]
    if with_published:
        rows += _published(prices, ownership)
    return sorted(rows, key=lambda row: (row.price.currency, row.model, row.context_len, row.per_million_tokens))


def without_price(summaries: Sequence[CellSummary], prices: PriceList) -> list[str]:
    """Return the devices of measured cells that have no price, each once, by the driver's name."""
    names = [summary.device.name for summary in summaries if not prices.of(summary.device_name)]
    return list(dict.fromkeys(names))


def comparable(rows: Sequence[CostRow]) -> list[CostRow]:
    """Return the rows of the study's own workload, which Figure 9 shows: its model, its context and one sequence."""
    model, context = published()["model"], published()["context_len"]
    return [row for row in rows if (row.model, row.context_len, row.batch) == (model, context, 1)]


def spread_sentence(rows: Sequence[CostRow]) -> str | None:
    """Return how many times cheaper the cheapest row is than the dearest of one provider, beside the study's claim.

    None where no provider has two rows of one workload.
    """
    groups: dict[tuple[str, str, str, int, int], list[CostRow]] = {}
    for row in rows:
        key = row.price.provider, row.price.currency, row.model, row.context_len, row.batch
        groups.setdefault(key, []).append(row)
    largest = max(groups.values(), key=len, default=[])
    if len(largest) < 2:
        return None
    cheap, dear = (pick(largest, key=lambda row: row.per_million_tokens) for pick in (min, max))
    times = dear.per_million_tokens / cheap.per_million_tokens
    return (
        f"At the prices of {cheap.price.provider}, {cheap.model} at context {cheap.context_len} costs least on "
        f"{cheap.device} by {cheap.path} ({cheap.origin}) and most on {dear.device} by {dear.path} ({dear.origin}): "
        f"{times:.1f} times as much. The study claims {published()['cost']['claimed_ratio']} times and does not say "
        "between which; no two of its own cells are so far apart (memfloor paper)."
    )


def _measured(
    summary: CellSummary, prices: PriceList, ownership: Ownership, energy: EnergySummary | None
) -> list[CostRow]:
    cell, device = summary.cell, summary.device_name
    watts = energy.watts.value if energy else None
    return [
        CostRow(
            device=device,
            path=runtime_label(cell),
            model=cell.spec.name,
            context_len=cell.workload.context_len,
            batch=cell.workload.batch,
            origin="measured",
            step_seconds=summary.p50_seconds.value,
            step_ci95_seconds=summary.p50_seconds.ci95,
            runs=len(summary.runs),
            price=price,
            per_hour=price.hourly(ownership, watts),
            power=_power(price, energy),
        )
        for price in prices.of(device)
    ]


def _power(price: Price, energy: EnergySummary | None) -> Power | None:
    if not isinstance(price, OwnedPrice):
        return None
    return Power(energy.watts.value, energy.sensor.name) if energy else Power(price.watts)


def _published(prices: PriceList, ownership: Ownership) -> list[CostRow]:
    model, context = published()["model"], published()["context_len"]
    return [
        CostRow(
            device=step.device,
            path=step.path,
            model=model,
            context_len=context,
            batch=1,
            origin="published" if step.stated else "published, implied",
            step_seconds=step.seconds,
            step_ci95_seconds=None,
            runs=None,
            price=price,
            per_hour=price.hourly(ownership),
            power=_power(price, None),
        )
        for step in published_steps()
        for price in _study_prices(step.device, prices)
    ]


def _study_prices(device: str, prices: PriceList) -> list[Price]:
    # By the study's own provider where the list still has it, for its costs are to be recognised.
    every = prices.of(device)
    return [price for price in every if price.provider == published()["cost"]["provider"]] or every


def catalogue_costs(summaries: Sequence[CellSummary], energies: Sequence[EnergySummary] = ()) -> list[CostRow]:
    """Return the rows by the prices of the catalogue and its terms of ownership."""
    prices = catalogue()
    assert prices.electricity is not None
    return cost_rows(summaries, prices, Ownership(electricity=prices.electricity), energies=energies)


def _check_devices(prices: PriceList, summaries: Sequence[CellSummary]) -> None:
    known = {*devices(), *(summary.device_name for summary in summaries)}
    for price in prices.devices:
        if price.device not in known:
            raise UsageError.unknown("device of a price", price.device, known)
