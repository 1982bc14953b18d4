"""The part of the page that shows paths of weights: expected beside observed traffic, reasons, quality, Figure 8."""

from collections.abc import Sequence
from dataclasses import dataclass

from memfloor.report.figures import figure_svg
from memfloor.report.templates import template
from memfloor.report.weight_figure import weight_paths
from memfloor.report.weight_ladder import WeightLadder
from memfloor.report.weight_tables import (
    NOTHING,
    QUALITY_COLUMNS,
    TRAFFIC_COLUMNS,
    WHY_COLUMNS,
    ladder_lines,
    ladder_title,
    quality_rows,
    traffic_row,
    why_rows,
)

CAPTION = (
    "Figure 8. Left: the step of each path with its 95 % interval over runs; orange: the time of its bytes at the "
    "paired ceiling. Right: the speed-up over the baseline, measured (square, with its 95 % interval over blocks) and "
    "promised by the bytes (diamond). Grey, below: the study's published steps, a reference that was not measured here."
)
TRAFFIC = "Expected beside observed traffic: what a step must read, the speed-up that this promises, and that measured."
WHY = "Who owns the time beyond the floor, in milliseconds, of one anatomy or the middle of some."
QUALITY = "Quality beside speed: the logits of each path against those of its own bf16 source."

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class LadderSection:
    """Hold what is shown of one ladder: tables of caption, columns and rows, and what is said below them."""

    title: str
    tables: Sequence[Table]
    lines: Sequence[str]


def weight_section(ladders: Sequence[WeightLadder]) -> str:
    """Return the section of the page as HTML; nothing where no paths of weights were compared."""
    if not ladders:
        return ""
    return template("weights").render(
        ladders=list(map(_section, ladders)), svg=figure_svg(weight_paths(ladders)), caption=CAPTION
    )


def _section(ladder: WeightLadder) -> LadderSection:
    tables: list[Table] = [
        (TRAFFIC, TRAFFIC_COLUMNS, list(map(traffic_row, ladder.rows))),
        (WHY, WHY_COLUMNS, why_rows(ladder)),
        (QUALITY, QUALITY_COLUMNS, quality_rows(ladder)),
    ]
    shown = [(caption, columns, list(map(_shortened, rows))) for caption, columns, rows in tables if rows]
    return LadderSection(ladder_title(ladder), shown, ladder_lines(ladder))


def _shortened(row: Sequence[str]) -> Sequence[str]:
    """Return a row without figures as its name and the reason, which then stands in their place."""
    return (row[0], row[-1]) if set(row[1:-1]) == {NOTHING} else row
