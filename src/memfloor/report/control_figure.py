"""How regular control loops are: every response over time, and how often one is longer than any given time."""

from collections.abc import Sequence
from itertools import chain, pairwise

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from memfloor.record import ControlLoop
from memfloor.report.colours import DARK_GREY, MEASURED_COLOUR, THRESHOLD_COLOUR
from memfloor.report.control import LoopSummary, response_seconds
from memfloor.report.control_text import loop_title
from memfloor.report.figures import STYLE

# A loop of hours has more cycles than a figure has room, or a page should carry.
MOST_DOTS = 1200


def jitter(summaries: Sequence[LoopSummary]) -> Figure:
    """Draw the cycles of control loops, a row for each: left in order, right the share of them beyond a time.

    Where a loop has too many cycles for a dot each, a dot is the slowest of some that follow one another.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.3 + 2.6 * len(summaries)), layout="constrained")
        panels = figure.subplots(len(summaries), 2, squeeze=False, width_ratios=(2, 1))
        for (left, right), summary in zip(panels, summaries, strict=True):
            _draw_cycles(left, summary)
            _draw_tail(right, summary)
    return figure


def slowest_of_each(values: Sequence[float], most: int) -> list[tuple[int, float]]:
    """Return place and value of the largest of each of at most so many stretches of values, in order."""
    ends = [len(values) * stretch // most for stretch in range(most + 1)] if len(values) > most else None
    if ends is None:
        return list(enumerate(values))
    stretches = (range(begin, end) for begin, end in pairwise(ends))
    places = (max(stretch, key=lambda place: values[place]) for stretch in stretches)
    return [(place, values[place]) for place in places]


def _draw_cycles(axes: Axes, summary: LoopSummary) -> None:
    period = summary.first.period_seconds
    for loop in summary.loops:
        seconds = response_seconds(loop)
        times = _times(loop)
        shown = slowest_of_each(seconds, MOST_DOTS)
        for late, colour in ((False, MEASURED_COLOUR), (True, THRESHOLD_COLOUR)):
            dots = [(times[place], value) for place, value in shown if (value > period) == late]
            axes.plot(*_milliseconds(dots), ".", color=colour, markersize=3, alpha=0.7)
    axes.axhline(1e3 * period, color=THRESHOLD_COLOUR, linewidth=1.2)
    # Some cycles take a hundred times as long as others.
    axes.set_yscale("log")
    _plain(axes.yaxis)
    axes.set_ylabel("response, ms")
    axes.set_xlabel("seconds since the loop began")
    axes.set_title(loop_title(summary), loc="left", fontsize=8)


def _draw_tail(axes: Axes, summary: LoopSummary) -> None:
    values = sorted(chain.from_iterable(summary.responses))
    # Only the slow end has few values: elsewhere one of many draws the same curve.
    every = max(1, len(values) // MOST_DOTS)
    places = sorted({*range(0, len(values), every), *range(max(0, len(values) - MOST_DOTS), len(values))})
    axes.step(
        [1e3 * values[place] for place in places],
        [1 - place / len(values) for place in places],
        where="pre",
        color=MEASURED_COLOUR,
        linewidth=1.4,
    )
    axes.axvline(1e3 * summary.first.period_seconds, color=THRESHOLD_COLOUR, linewidth=1.2)
    axes.axvline(1e3 * summary.floor.seconds, color=DARK_GREY, linewidth=1.2, linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain(axes.xaxis)
    axes.set_ylabel("share as long or longer")
    axes.set_xlabel("response, ms")


def _plain(axis: Axis) -> None:
    """Write milliseconds on a logarithmic axis as numbers, not as powers of ten."""
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))


def _times(loop: ControlLoop) -> list[float]:
    """Return when each cycle that counts was due; without a pace, when it began if nothing lay between cycles."""
    if loop.paced:
        return [tick * loop.period_seconds for tick in loop.counted(loop.cycles.ticks)]
    times, now = [], 0.0
    for busy in loop.counted(loop.cycles.busy_seconds):
        times.append(now)
        now += busy
    return times


def _milliseconds(dots: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [time for time, _ in dots], [1e3 * value for _, value in dots]
