"""Tables for people and JSON for programs, both on standard output."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

# Columns that hold sentences; figures are never broken over lines.
WRAPPED = ("why", "device or reason", "device and sensor", "verdict")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table whose first column is left-aligned and whose others are right-aligned."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(
            column,
            justify="left" if index == 0 else "right",
            overflow="fold",
            no_wrap=index > 0 and column not in WRAPPED,
        )
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def print_wide_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], width: int, narrow: Sequence[int]
) -> None:
    """Print a table whole where a line has `width` characters, elsewhere only the columns at the places `narrow`."""
    places = range(len(columns)) if _console().width >= width else narrow
    print_table(title, [columns[place] for place in places], [[row[place] for place in places] for row in rows])


def print_text(text: str) -> None:
    """Print a paragraph, wrapped to the terminal."""
    _console().print(text)


def print_json(value: Any) -> None:
    """Print one JSON value as the last thing on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False))


def one_or_list(values: Sequence[Any]) -> Any:
    """Return the only value by itself, or the whole list."""
    return values[0] if len(values) == 1 else list(values)


def _console() -> Console:
    # Names, reasons and paths are printed as they are, whatever brackets and colons they hold.
    console = Console(markup=False, emoji=False, highlight=False)
    # A file or a pipe has no width of its own; do not fold tables there.
    if not console.is_terminal:
        console.width = 200
    return console
