"""Interactive charts of the page: plotly figures as plain data, drawn by its script, which the page carries once.

Only `plotly.offline` is used of the package: figures are dictionaries, as plotly.js takes them. The page's own script
(charts.js) draws each when it comes into view and gives it the page's colours. The package holds the full bundle alone
(4.8 MB); a smaller one would have to be kept in this repository and be brought up to date by hand.
"""

import html
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

HOVER_CHARACTERS = 56
ELEMENT = Markup(
    '<figure class="chart"><div class="plot" role="img" aria-label="{}" style="height: {}px"></div>\n'
    '<script type="application/json">{}</script>\n'
    "<figcaption>{}</figcaption></figure>"
)


@dataclass(frozen=True, slots=True)
class View:
    """Name a part of the x axis that a button shows."""

    label: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Hold one interactive chart.

    Attributes:
        traces: As plotly.js takes them; text from records must have gone through `plain` or `wrapped`.
        layout: As plotly.js takes it, without size, background and ink, which are the page's.
        height_px: Of the chart in the page.
        caption: Stands below it; plain text.
        views: Parts of the x axis to choose from, the first of them at first; none where all is shown.
    """

    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    height_px: int
    caption: str
    views: Sequence[View] = ()

    @property
    def embedded(self) -> Markup:
        """Return the chart as JSON that cannot end the element it stands in.

        Raises:
            ValueError: A number is not finite.
        """
        views = [{"label": view.label, "range": [view.start, view.end]} for view in self.views]
        data = {"traces": self.traces, "layout": self.layout, "views": views}
        return htmlsafe_json_dumps(data, separators=(",", ":"), allow_nan=False)

    def element(self, label: str) -> Markup:
        """Return the chart as an element of the page, which charts.js draws.

        Args:
            label: What it is, for those who do not see it; plain text.
        """
        return ELEMENT.format(label, self.height_px, self.embedded, self.caption)


def plain(text: str) -> str:
    """Return text that plotly, which reads tags and entities, shows as it is."""
    return html.escape(text, quote=False)


def wrapped(text: str, lines: int = 3) -> str:
    """Return text over a few lines, for a hover label, shown as it is."""
    parts = textwrap.wrap(text, HOVER_CHARACTERS, max_lines=lines, placeholder=" ...")
    return "<br>".join(map(plain, parts))


def scripts() -> Sequence[Markup]:
    """Return plotly's script and the page's own, to be inlined once in a page that holds charts."""
    from plotly.offline import get_plotlyjs

    return [Markup(get_plotlyjs()), _own("charts.js")]


def table_script() -> Sequence[Markup]:
    """Return the page's script for long tables."""
    return [_own("tables.js")]


def _own(name: str) -> Markup:
    return Markup((files("memfloor") / "report" / name).read_text(encoding="utf-8"))
