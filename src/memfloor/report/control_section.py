"""The part of the page that shows control loops: their tails, how often they miss, why, and how regular they are."""

from collections.abc import Sequence

from memfloor.record import ControlLoop
from memfloor.report.control import summarise_loops
from memfloor.report.control_figure import jitter
from memfloor.report.control_text import (
    COINCIDENCE_COLUMNS,
    LOOP_COLUMNS,
    coincidence_note,
    coincidence_row,
    coincidence_title,
    loop_lines,
    loop_row,
    loop_title,
)
from memfloor.report.figures import figure_svg
from memfloor.report.templates import template

CAPTION = (
    "Left: the response of every cycle, from when it was due to its end; the line is the period, and red is what "
    "missed it. Right: the share of cycles that take as long or longer. Dotted: the floor of a cycle, which "
    "is its reads at the bandwidth beside the loop, and its prompt's arithmetic where that takes longer."
)


def control_section(loops: Sequence[ControlLoop]) -> str:
    """Return the section of the page as HTML; nothing where no control loop was run."""
    summaries = summarise_loops(loops)
    if not summaries:
        return ""
    return template("control").render(
        columns=LOOP_COLUMNS,
        rows=list(map(loop_row, summaries)),
        why_columns=COINCIDENCE_COLUMNS,
        loops=[
            {
                "title": loop_title(summary),
                "lines": loop_lines(summary),
                "caption": coincidence_title(summary),
                "reasons": list(map(coincidence_row, summary.coincidences)),
            }
            for summary in summaries
        ],
        note=coincidence_note(),
        svg=figure_svg(jitter(summaries)),
        caption=CAPTION,
    )
