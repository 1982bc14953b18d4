"""A ledger as a waterfall: from nothing to the floor, and by every term to the timed step."""

from dataclasses import dataclass
from itertools import accumulate

from memfloor.report.colours import FLOOR_COLOUR, STEP_COLOUR, TERM_COLOURS, UNEXPLAINED_COLOUR
from memfloor.report.interactive import Chart, plain, wrapped
from memfloor.report.ledger import Ledger
from memfloor.report.tables import seconds_interval
from memfloor.stats import Estimate
from memfloor.units import MILLI, format_percent, format_seconds

# Milliseconds, to a nanosecond.
DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Row:
    """Hold one row of a waterfall.

    Attributes:
        name: What owns the time.
        estimate: Of the ledger.
        colour: Of the bar.
        remedy: What would remove it; empty where nothing is named.
        in_gap: Whether it is a part of the gap.
    """

    name: str
    estimate: Estimate
    colour: str
    remedy: str = ""
    in_gap: bool = True


def waterfall(ledger: Ledger) -> Chart:
    """Return the waterfall, whose bars are the lines of the ledger."""
    rows = _rows(ledger)
    lengths = [row.estimate.value for row in rows]
    ends = list(accumulate(lengths))
    drawn = [*rows, Row("step, timed", ledger.step_seconds, STEP_COLOUR, in_gap=False)]
    lengths, begins = [*lengths, ends[-1]], [0.0, *ends[:-1], 0.0]
    gap = ends[-1] - lengths[0]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [row.name for row in drawn],
        "x": [_milliseconds(seconds) for seconds in lengths],
        "base": [_milliseconds(seconds) for seconds in begins],
        "text": [f"{seconds / MILLI:.3g}" for seconds in lengths],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": [row.colour for row in drawn]},
        "hovertext": [_hover(row, length, gap, ledger) for row, length in zip(drawn, lengths, strict=True)],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": False,
    }
    layout = {
        "bargap": 0.25,
        "hovermode": "closest",
        "xaxis": {"title": {"text": "ms"}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "automargin": True, "fixedrange": True},
    }
    return Chart([trace], layout, 90 + 30 * len(drawn), _caption(ledger))


def _rows(ledger: Ledger) -> list[Row]:
    return [
        Row("floor", ledger.floor_seconds, FLOOR_COLOUR, in_gap=False),
        *(Row(term.name, term.seconds, TERM_COLOURS[term.name], term.remedy) for term in ledger.terms),
        Row("unexplained", ledger.unexplained_seconds, UNEXPLAINED_COLOUR),
    ]


def _hover(row: Row, seconds: float, gap_seconds: float, ledger: Ledger) -> str:
    lines = [f"<b>{plain(row.name)}</b>", format_seconds(seconds)]
    if row.in_gap:
        lines.append(f"{format_percent(seconds / gap_seconds)} of the gap")
    if row.estimate.runs > 1:
        lines.append(f"95 % CI over {row.estimate.runs} anatomies: {seconds_interval(row.estimate)}")
    return "<br>".join([*lines, *([f"removed by {wrapped(row.remedy)}"] if row.remedy else [])])


def _caption(ledger: Ledger) -> str:
    runs = ledger.step_seconds.runs
    if runs == 1:
        return "From the floor at the paired ceiling to the timed step."
    which = "that whose step is the median one" if runs % 2 else "the mean of the two in the middle"
    return (
        f"From the floor at the paired ceiling to the timed step: of {runs} anatomies {which}, as in the table above."
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds / MILLI, DECIMALS)
