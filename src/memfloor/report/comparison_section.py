"""The part of the page that shows comparisons."""

from collections.abc import Sequence
from dataclasses import replace

from memfloor.report.compared import Compared
from memfloor.report.comparison_figures import COMPARISON_FIGURES
from memfloor.report.comparison_tables import (
    COMPARISON_COLUMNS,
    arms_text,
    comparison_lines,
    comparison_row,
)
from memfloor.report.false_alarms import alarm_sentences
from memfloor.report.figures import figure_svg
from memfloor.report.forest import forest_chart
from memfloor.report.interactive import Chart
from memfloor.report.shown import LONG_TABLE, MOST_SESSIONS, drawn_comparisons, left_out
from memfloor.report.tables import workload_text
from memfloor.report.templates import template

CAPTIONS = {
    "5": "Figure 5. Speed-up by context, with 95 % intervals over blocks. Grey: the study's published points, a "
    "reference that was not measured here.",
    "6": "Figure 6. Left: every timed step of both arms, run by run, with each run's median. Right: what samples of "
    "three blocks would have found.",
}


def comparison_section(compared: Sequence[Compared]) -> str:
    """Return the section of the page as HTML; nothing where nothing was compared."""
    if not compared:
        return ""
    drawn = [item for item in compared if item.ratio]
    # Paths of weights have a figure of their own.
    in_figures = [item for item in drawn if not item.of_weights]
    return template("comparisons").render(
        columns=COMPARISON_COLUMNS,
        rows=[comparison_row(item) for item in compared],
        details=[(f"{arms_text(item)}, {workload_text(item.baseline)}", _details(item)) for item in compared],
        long_table=LONG_TABLE,
        open_details=MOST_SESSIONS,
        forest=_forest(drawn) if drawn else None,
        figures=_figures(in_figures) if in_figures else [],
    )


def _details(compared: Compared) -> list[str]:
    alarms = alarm_sentences(compared) if compared.comparison and compared.comparison.question == "aa" else []
    return [*comparison_lines(compared), *alarms]


def _figures(drawn: Sequence[Compared]) -> list[tuple[str, str]]:
    shown = drawn_comparisons(drawn, MOST_SESSIONS)
    more = left_out(len(shown), len(drawn), "comparisons")
    return [(figure_svg(COMPARISON_FIGURES[name](shown)), caption + more) for name, caption in CAPTIONS.items()]


def _forest(drawn: Sequence[Compared]) -> Chart:
    shown = drawn_comparisons(drawn)
    chart = forest_chart(shown)
    return replace(chart, caption=chart.caption + left_out(len(shown), len(drawn), "comparisons"))
