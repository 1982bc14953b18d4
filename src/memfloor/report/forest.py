"""Every comparison as a row of an interactive chart: its ratio and interval in the colour of its verdict."""

from collections.abc import Sequence
from typing import Any

from memfloor.report.colours import GREY, THRESHOLD_COLOUR, verdict_colour
from memfloor.report.compared import Compared
from memfloor.report.comparison_tables import arms_text
from memfloor.report.interactive import Chart, plain, wrapped
from memfloor.report.tables import workload_text
from memfloor.stats import Ratio

CAPTION = (
    "Every comparison, on a logarithmic scale. Green: faster, orange: slower, blue: equivalent, grey: unclear, "
    "purple: verdict refused. Wide and grey: the margin; an upright line: the threshold of a claimed null."
)


def forest_chart(compared: Sequence[Compared]) -> Chart:
    """Return the chart of the comparisons that have a ratio; of each its arms, interval and verdict on a label."""
    drawn = [(item, item.ratio) for item in compared if item.ratio]
    rows = range(len(drawn))
    labels = [plain(f"{arms_text(item)}, {workload_text(item.baseline)}") for item, _ in drawn]
    traces = [*(_margin(row, item) for row, (item, _) in zip(rows, drawn, strict=True)), _ratios(drawn)]
    thresholds = [
        (row, item.comparison.expect_null_below)
        for row, (item, _) in zip(rows, drawn, strict=True)
        if item.comparison and item.comparison.expect_null_below
    ]
    layout = {
        "hovermode": "closest",
        "xaxis": {"title": {"text": "baseline time over candidate time"}, "type": "log"},
        "yaxis": {
            "autorange": "reversed",
            "automargin": True,
            "fixedrange": True,
            "tickvals": list(rows),
            "ticktext": labels,
            "zeroline": False,
        },
        "shapes": [_line(1.0, -0.5, len(drawn) - 0.5, GREY)]
        + [_line(below, row - 0.4, row + 0.4, THRESHOLD_COLOUR) for row, below in thresholds],
    }
    return Chart(traces, layout, 110 + 34 * len(drawn), CAPTION)


def _ratios(drawn: Sequence[tuple[Compared, Ratio]]) -> dict[str, Any]:
    intervals = [ratio.ci95 or (ratio.value, ratio.value) for _, ratio in drawn]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [ratio.value for _, ratio in drawn],
        "y": list(range(len(drawn))),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - ratio.value for (_, high), (_, ratio) in zip(intervals, drawn, strict=True)],
            "arrayminus": [ratio.value - low for (low, _), (_, ratio) in zip(intervals, drawn, strict=True)],
            "color": GREY,
        },
        "marker": {"symbol": "square", "size": 9, "color": [verdict_colour(item.verdict) for item, _ in drawn]},
        "hovertext": [_hover(item, ratio) for item, ratio in drawn],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": False,
    }


def _margin(row: int, item: Compared) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [1 / (1 + item.margin), 1 + item.margin],
        "y": [row, row],
        "line": {"color": GREY, "width": 16},
        "opacity": 0.25,
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _line(ratio: float, start: float, end: float, colour: str) -> dict[str, Any]:
    return {"type": "line", "x0": ratio, "x1": ratio, "y0": start, "y1": end, "line": {"color": colour, "width": 1}}


def _hover(item: Compared, ratio: Ratio) -> str:
    device = item.baseline_runs[0].environment.device.name
    lines = [
        f"<b>{plain(arms_text(item))}</b>",
        plain(f"context {workload_text(item.baseline)}, {device}"),
        f"{ratio}, {ratio.blocks} blocks",
        wrapped(item.verdict),
    ]
    if item.equal_bandwidth:
        lines.append(f"at equal bandwidth {item.equal_bandwidth.ratio}")
    return "<br>".join([*lines, str(item.isolation), *map(wrapped, item.confounders)])
