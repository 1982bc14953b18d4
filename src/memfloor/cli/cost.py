"""`memfloor cost`: what a million tokens cost at batch 1, by device and path."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from memfloor.cli.output import print_json, print_text, print_wide_table
from memfloor.cli.records import read_contents
from memfloor.errors import UsageError
from memfloor.prices import (
    Electricity,
    Ownership,
    PriceList,
    catalogue,
    parse_electricity,
    parse_price,
    read_prices,
)
from memfloor.record import Contents

if TYPE_CHECKING:
    from memfloor.report.cost import CostRow


def cost(
    folder: Path | None = None,
    /,
    *,
    model: str | None = None,
    context: int | None = None,
    prices: Path | None = None,
    price: Annotated[list[str] | None, Parameter(negative=())] = None,
    years: float = 3.0,
    utilisation: float = 1.0,
    electricity: str | None = None,
    api: str | None = None,
    published: bool = True,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Say what a million tokens cost at batch 1: measured and published steps times the prices of their devices.

    Args:
        folder: Folder with records; without one the published steps alone.
        model: Only this model.
        context: Only this context.
        prices: TOML file of prices of your own, of the form of data/prices.toml; they replace a device's.
        price: An hour's price of a device, DEVICE=AMOUNT:CURRENCY:DATE, as h200=3.50:USD:2026-11-27; repeatable.
        years: Until an owned device is worth nothing.
        utilisation: Share of these years in which it decodes, above 0 and up to 1.
        electricity: A kilowatt-hour's price, AMOUNT:CURRENCY:DATE.
        api: An API's price of a million tokens, AMOUNT:CURRENCY: what it would take to cost as much.
        published: Show the study's published steps too.
        json: Print one JSON object instead.
    """
    from memfloor.report.cost import cost_rows, without_price
    from memfloor.report.energy import energies_of
    from memfloor.report.summary import summarise

    listed = _price_list(prices, price or [])
    ownership = Ownership.of(years, utilisation, _electricity(listed, electricity))
    found = read_contents(folder) if folder else Contents((), ())
    summaries, energies = summarise(found.runs)[0], energies_of(found.energy_runs).summaries
    rows = [
        row
        for row in cost_rows(summaries, listed, ownership, published, energies)
        if model in (None, row.model) and context in (None, row.context_len)
    ]
    if not rows:
        raise UsageError(f"no step to price{f' in {folder}' if folder else ''}; see --model, --context and --price")
    per_million = _api_price(api, rows) if api else None
    unpriced = without_price(summaries, listed)
    if json:
        print_json({"rows": [row.to_json(per_million) for row in rows], "without_price": unpriced})
    else:
        _show(rows, per_million, unpriced)


def _show(rows: "Sequence[CostRow]", api_per_million: float | None, unpriced: Sequence[str]) -> None:
    from memfloor.report.cost import spread_sentence
    from memfloor.report.cost_section import BREAK_EVEN_COLUMNS, COST_COLUMNS, NARROW, WIDE_TABLE, cost_row

    columns = (*COST_COLUMNS, *(BREAK_EVEN_COLUMNS if api_per_million else ()))
    cells = [cost_row(row, api_per_million) for row in rows]
    print_wide_table("Cost of a million tokens", columns, cells, WIDE_TABLE, NARROW)
    for name in unpriced:
        print_text(f"No price for {name}; give one with --price '{name}=AMOUNT:CURRENCY:DATE'.")
    sentence = spread_sentence(rows)
    if sentence:
        print_text(sentence)


def _price_list(file: Path | None, given: Sequence[str]) -> PriceList:
    listed = catalogue().beneath(read_prices(file)) if file else catalogue()
    return listed.beneath(PriceList(rented=tuple(map(parse_price, given))))


def _electricity(prices: PriceList, given: str | None) -> Electricity:
    if given is not None:
        return parse_electricity(given)
    # The catalogue has one, and lies beneath every other list.
    assert prices.electricity is not None
    return prices.electricity


def _api_price(text: str, rows: "Sequence[CostRow]") -> float:
    amount, _, currency = text.partition(":")
    try:
        per_million = float(amount)
    except ValueError:
        per_million = 0.0
    if not per_million > 0 or not currency:
        raise UsageError(f"api {text!r} is not of the form AMOUNT:CURRENCY with an amount above 0, as 0.30:USD")
    others = sorted({row.price.currency for row in rows} - {currency})
    if others:
        raise UsageError(f"the API is priced in {currency} and devices in {', '.join(others)}; no price is converted")
    return per_million
