"""What tokens cost, as text for the terminal and as a part of the page, and Figure 9."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memfloor.prices import OwnedPrice
from memfloor.report.colours import MEASURED_COLOUR, PUBLISHED_COLOUR
from memfloor.report.cost import CostRow, comparable, spread_sentence
from memfloor.report.figures import STYLE, beside, figure_svg
from memfloor.report.templates import template
from memfloor.units import format_seconds

COST_COLUMNS = (
    "device",
    "path",
    "model",
    "context",
    "step",
    "source",
    "price of an hour",
    "a million tokens",
    "95 % CI",
)
BREAK_EVEN_COLUMNS = ("over the API", "step to break even")
WIDE_TABLE = 180
NARROW = (0, 1, 5, 7)


def cost_row(row: CostRow, api_per_million: float | None = None) -> list[str]:
    """Return the row of a cost; an API's price adds what it would take to cost as much."""
    cells = [
        row.device,
        row.path,
        row.model,
        str(row.context_len) + (f" x{row.batch}" if row.batch > 1 else ""),
        format_seconds(row.step_seconds),
        row.origin + (f", {row.runs} runs" if row.runs else ""),
        price_text(row),
        f"{row.per_million_tokens:.4g} {row.price.currency}",
        f"[{row.ci95[0]:.4g}, {row.ci95[1]:.4g}]" if row.ci95 else "-",
    ]
    if api_per_million is None:
        return cells
    even = row.break_even(api_per_million)
    return [*cells, f"{even.times:.3g} times", format_seconds(even.step_seconds)]


def price_text(row: CostRow) -> str:
    """Return what an hour of decoding costs, by whose price, and of when."""
    kind = "bought of " if isinstance(row.price, OwnedPrice) else ""
    power = f", {row.power.watts:.4g} W ({row.power.source})" if row.power else ""
    return f"{row.per_hour:.4g} {row.price.currency}, {kind}{row.price.provider} {row.price.date.isoformat()}{power}"


def costs(rows: Sequence[CostRow]) -> Figure:
    """Draw Figure 9: the cost of a million tokens by device and path, the cheapest first, a panel for each currency.

    Bars in grey are the study's published steps, a reference that was not measured here.
    """
    currencies = sorted({row.price.currency for row in rows})
    with mpl.rc_context(STYLE):
        heights = [sum(row.price.currency == currency for row in rows) for currency in currencies]
        figure = Figure(figsize=(10, 1.0 + 0.34 * len(rows)), layout="constrained")
        panels = figure.subplots(len(currencies), 1, squeeze=False, height_ratios=heights).flatten()
        for axes, currency in zip(panels, currencies, strict=True):
            _draw(axes, [row for row in rows if row.price.currency == currency], currency)
    return figure


def _draw(axes: Axes, rows: Sequence[CostRow], currency: str) -> None:
    for place, row in enumerate(rows):
        colour = MEASURED_COLOUR if row.origin == "measured" else PUBLISHED_COLOUR
        axes.barh(place, row.per_million_tokens, color=colour)
        if row.ci95:
            axes.plot(row.ci95, [place, place], color="black", linewidth=1.2)
        highest = max(row.per_million_tokens, row.ci95[1] if row.ci95 else 0.0)
        beside(axes, highest, place, f"{row.per_million_tokens:.4g}", 9)
    labels = [f"{row.device}, {row.path} ({row.origin}), {price_text(row)}" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"{currency} for a million tokens at batch 1")
    axes.margins(x=0.12)


def cost_section(rows: Sequence[CostRow]) -> str:
    """Return the section of the page as HTML; nothing where no measured device has a price."""
    if not any(row.origin == "measured" for row in rows):
        return ""
    shown = comparable(rows)
    measured = any(row.origin == "measured" for row in shown)
    return template("cost").render(
        columns=COST_COLUMNS,
        rows=map(cost_row, rows),
        sentence=spread_sentence(rows),
        figure=figure_svg(costs(shown)) if measured else None,
    )
