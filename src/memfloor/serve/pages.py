"""The pages, each from what lies below the folder and what was asked for; a template lays it out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2

import memfloor
from memfloor.errors import UsageError
from memfloor.report.attention_table import ATTENTION_COLUMNS, attention_row, skipped_row
from memfloor.report.by_cell import InvalidCell
from memfloor.report.energy_section import ENERGY_COLUMNS, energy_row, without_row
from memfloor.report.listing import LISTING_COLUMNS, cells_of, listing_row
from memfloor.report.page import page_style
from memfloor.report.summary import CellSummary
from memfloor.report.tables import CELL_COLUMNS, cell_row, invalid_row
from memfloor.serve.folder import Entry, Folder
from memfloor.serve.library import Snapshot
from memfloor.serve.selection import NO_DEVICE, Selection, choices_in

PAGE_RECORDS = 200
ORDERS = ("folder", "p50", "of ceiling")
# Columns of a cell that stand before its folder: what tells it from others, its time and its fraction.
FIRST_COLUMNS = 6
PLURALS = {"anatomy": "anatomies", "quality": "qualities", "energy": "energy runs"}


def _load(name: str) -> str:
    return (files("memfloor") / "serve" / "templates" / name).read_text(encoding="utf-8")


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FunctionLoader(_load), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
)


def render(template: str, snapshot: Snapshot, selection: Selection, shown: Mapping[str, Any]) -> str:
    """Return a page.

    Args:
        template: Name of its template.
        snapshot: What lies below the folder.
        selection: What was asked for.
        shown: What else the template needs.
    """
    common = {
        "version": memfloor.__version__,
        "root": snapshot.root.name or str(snapshot.root),
        "style": page_style() + _load("serve.css"),
        "choices": choices_in(snapshot),
        "selection": selection,
        "problems": snapshot.problems,
    }
    return _TEMPLATES.get_template(template).render({**common, **shown})


@dataclass(frozen=True, slots=True)
class FolderRow:
    """Hold what the list of folders says of one, as text; its dates by line."""

    name: str
    dates: Sequence[str]
    devices: str
    models: str
    runtimes: str
    records: str


@dataclass(frozen=True, slots=True)
class CellRow:
    """Hold the row of a cell, and where it opens."""

    cell_id: str
    row: Sequence[str]
    device: str
    folder: str


def folders_page(snapshot: Snapshot, selection: Selection) -> str:
    """Return the list of folders whose records were chosen."""
    found: dict[str, list[Entry]] = {}
    for entry in selection.entries(snapshot):
        found.setdefault(entry.folder, []).append(entry)
    rows = [_folder_row(name, found[name], snapshot) for name in sorted(found)]
    total = sum(map(len, found.values()))
    return render("folders.html", snapshot, selection, {"rows": rows, "total": total, "every": len(snapshot.entries)})


def _folder_row(name: str, entries: Sequence[Entry], snapshot: Snapshot) -> FolderRow:
    records = [entry.record for entry in entries]
    cells = [cell for record in records for cell in cells_of(record)]
    dates = sorted({record.taken_at[:10] for record in records})
    kinds = Counter(record.kind for record in records).most_common()
    return FolderRow(
        name=name,
        dates=dates[:1] if len(dates) == 1 else [f"{dates[0]} to", dates[-1]],
        devices=_listed(snapshot.devices.get(record.record_id, NO_DEVICE) for record in records),
        models=_listed(cell.spec.name for cell in cells),
        runtimes=_listed(cell.runtime for cell in cells),
        records=", ".join(f"{count} {_named(kind, count)}" for kind, count in kinds),
    )


def _named(kind: str, count: int) -> str:
    words = kind.replace("_", " ")
    return words if count == 1 else PLURALS.get(kind, f"{words}s")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))


def cells_page(snapshot: Snapshot, selection: Selection, order: str) -> str:
    """Return the tables of cells: whole steps, attention backends, energy.

    Args:
        snapshot: What lies below the folder.
        selection: What was asked for.
        order: One of `ORDERS`.

    Raises:
        UsageError: It is none of them.
    """
    if order not in ORDERS:
        raise UsageError.unknown("order", order, ORDERS)
    folders = selection.folders(snapshot)
    shown = {
        "columns": CELL_COLUMNS,
        "rows": _cell_rows(folders, selection, order),
        "invalid": _invalid_rows(folders, selection),
        "others": [table for table in (_attention(folders, selection), _energy(folders, selection)) if table["rows"]],
        "first": FIRST_COLUMNS,
        "order": order,
        "orders": ORDERS,
    }
    return render("cells.html", snapshot, selection, shown)


def _cell_rows(folders: Sequence[Folder], selection: Selection, order: str) -> list[CellRow]:
    chosen = [
        (folder, cell_id, summary)
        for folder in folders
        for cell_id, summary in folder.cells.items()
        if selection.takes_cell(summary.cell, summary.device.name)
    ]
    if order != "folder":
        chosen.sort(key=lambda found: _size(found[2], order))
    return [CellRow(cell_id, cell_row(it), it.device.name, folder.name) for folder, cell_id, it in chosen]


def _size(summary: CellSummary, order: str) -> float:
    return summary.p50_seconds.value if order == "p50" else -summary.fractions["streamed"].ceiling.value


def _invalid_rows(folders: Sequence[Folder], selection: Selection) -> list[list[str]]:
    return [
        [*invalid_row(cell), _device(cell), folder.name]
        for folder in folders
        for cell in folder.invalid
        if selection.takes_cell(cell.cell, _device(cell))
    ]


def _attention(folders: Sequence[Folder], selection: Selection) -> dict[str, Any]:
    rows, lost = [], []
    for folder in folders:
        rows += [
            [*attention_row(row), row.summary.device.name, folder.name]
            for row in folder.attention.rows
            if selection.takes_cell(row.summary.cell, row.summary.device.name)
        ]
        lost += [
            [*skipped_row(cell), _device(cell), folder.name]
            for cell in folder.attention.invalid
            if selection.takes_cell(cell.cell, _device(cell))
        ]
    columns = (*ATTENTION_COLUMNS, "device", "folder")
    return {"title": "Attention alone", "columns": columns, "rows": [*rows, *_widened(lost, len(columns))]}


def _energy(folders: Sequence[Folder], selection: Selection) -> dict[str, Any]:
    rows, lost = [], []
    for folder in folders:
        rows += [
            [*energy_row(item), folder.name]
            for item in folder.energies.summaries
            if selection.takes_cell(item.cell, item.device.name)
        ]
        lost += [
            [*without_row(item), folder.name]
            for item in folder.energies.without
            if selection.takes_cell(item.cell, item.device.name if item.device else NO_DEVICE)
        ]
    columns = (*ENERGY_COLUMNS, "folder")
    return {"title": "Energy", "columns": columns, "rows": [*rows, *_widened(lost, len(columns))]}


def _widened(lost: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    # A reason is longer than any figure: it stands in the first of their columns.
    return [[*row[:4], *[""] * (width - len(row)), *row[4:]] for row in lost]


def _device(cell: InvalidCell) -> str:
    return cell.device.name if cell.device else NO_DEVICE


def records_page(snapshot: Snapshot, selection: Selection, page: int) -> str:
    """Return one page of the list of records, oldest first.

    Args:
        snapshot: What lies below the folder.
        selection: What was asked for.
        page: Its number, from 1.

    Raises:
        UsageError: There is no such page.
    """
    entries = selection.entries(snapshot)
    pages = max(1, -(-len(entries) // PAGE_RECORDS))
    if not 1 <= page <= pages:
        raise UsageError(f"there is no page {page}; the last one is {pages}")
    shown = entries[(page - 1) * PAGE_RECORDS : page * PAGE_RECORDS]
    rows = [(entry.record.record_id, listing_row(entry.record), entry.folder) for entry in shown]
    values = {"columns": LISTING_COLUMNS, "rows": rows, "page": page, "pages": pages, "total": len(entries)}
    return render("records.html", snapshot, selection, values)


def problems_page(snapshot: Snapshot) -> str:
    """Return the list of files that were left out, with the reason of each."""
    return render("problems.html", snapshot, Selection(), {})


def error_page(snapshot: Snapshot, words: str) -> str:
    """Return the page that says why something cannot be shown."""
    return render("error.html", snapshot, Selection(), {"words": words})
