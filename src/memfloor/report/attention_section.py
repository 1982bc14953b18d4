"""The part of the page that shows attention backends."""

from memfloor.report.attention import OUTPUT_TOLERANCE, Attention
from memfloor.report.attention_figure import attention_figure
from memfloor.report.attention_table import ATTENTION_COLUMNS, attention_row, skipped_row
from memfloor.report.figures import figure_svg
from memfloor.report.templates import template


def attention_section(found: Attention) -> str:
    """Return the section of the page as HTML; nothing where no attention was run."""
    if not found.rows and not found.invalid:
        return ""
    return template("attention").render(
        columns=ATTENTION_COLUMNS,
        rows=[attention_row(row) for row in found.rows],
        lost=[skipped_row(cell) for cell in found.invalid],
        cautions=found.cautions,
        tolerance=f"{OUTPUT_TOLERANCE:.1e}",
        figure=figure_svg(attention_figure(found)) if found.rows else None,
    )
