"""The pages about one thing: a cell, a record, or what lies between two of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from memfloor.record import Anatomy, EnergyRun, Record, Timed
from memfloor.report.difference import DIFFERENCE_COLUMNS, Difference, Differences, difference, differences
from memfloor.report.figures import figure_svg, run_distributions
from memfloor.report.ledger import LEDGER_COLUMNS, ledger_checks, ledger_rows, make_ledgers
from memfloor.report.listing import LISTING_COLUMNS, listing_row
from memfloor.report.page import CAPTIONS, environment_facts, render_contents
from memfloor.report.sentences import cautions
from memfloor.report.step_figure import STEP_CAPTION, step_figure
from memfloor.report.summary import CellSummary, floor_bytes, summarise_cell
from memfloor.report.tables import CELL_COLUMNS, cell_row
from memfloor.serve.folder import Entry, Folder
from memfloor.serve.library import Snapshot
from memfloor.serve.pages import render
from memfloor.serve.selection import Selection
from memfloor.units import format_bandwidth, format_percent

# What is longer is offered as a file alone.
RAW_BYTES = 200_000
# Matplotlib's style belongs to the process: two figures drawn at once would mix theirs.
_DRAWING = Lock()


@dataclass(frozen=True, slots=True)
class Table:
    """Hold a table as text, and what stands below it."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    below: str = ""


def cell_page(snapshot: Snapshot, folder: Folder, cell_id: str) -> str:
    """Return the page about a cell of a folder."""
    summary = folder.cells[cell_id]
    with _DRAWING:
        figure = figure_svg(run_distributions([summary]))
    shown = {
        "folder": folder.name,
        "tables": [Table(CELL_COLUMNS, [cell_row(summary)])],
        "device": summary.device.name,
        "cautions": cautions([summary]),
        "figure": figure,
        "caption": CAPTIONS["runs"],
        "columns": LISTING_COLUMNS,
        "rows": [(run.record_id, listing_row(run)) for run in _records(snapshot, summary)],
        "environments": _environments(summary.runs),
    }
    return render("cell.html", snapshot, Selection(), shown)


def record_page(snapshot: Snapshot, entry: Entry) -> str:
    """Return the page about a record of any kind.

    Raises:
        UsageError: Its file has gone.
    """
    record = entry.record
    raw = snapshot.read_bytes(entry)
    shown = {
        "entry": entry,
        "tables": _record_tables(record),
        "facts": _plain_facts(record),
        "figure": _steps_svg(record) if isinstance(record, Timed) else "",
        "caption": STEP_CAPTION,
        "sections": _sections(record),
        "cell_id": _cell_of(snapshot.folders[entry.folder], record),
        "raw": json.dumps(json.loads(raw), indent=1) if len(raw) <= RAW_BYTES else "",
        "raw_bytes": len(raw),
    }
    return render("record.html", snapshot, Selection(), shown)


def folders_compared_page(snapshot: Snapshot, before: str, after: str, margin: float) -> str:
    """Return the page about what has changed between two folders, those below them included."""
    sets = snapshot.below(before).runs, snapshot.below(after).runs
    found = differences(*sets, margin)
    shown = {
        "before": before,
        "after": after,
        "margin": format_percent(margin),
        "tables": [Table(DIFFERENCE_COLUMNS, [item.row() for item in found.cells])] if found.cells else [],
        "notes": _notes(found.cells),
        "only": _only(found),
        "figure": "",
        "caption": "",
    }
    return render("comparison.html", snapshot, Selection(), shown)


def cells_compared_page(
    snapshot: Snapshot, before: tuple[Folder, CellSummary], after: tuple[Folder, CellSummary], margin: float
) -> str:
    """Return the page about what lies between two cells."""
    (first_folder, first), (second_folder, second) = before, after
    found = difference(first, second, margin)
    with _DRAWING:
        figure = figure_svg(run_distributions([first, second]))
    places = [["before", first_folder.name, first.device.name], ["after", second_folder.name, second.device.name]]
    rows = [[*place, *cell_row(item)] for place, item in zip(places, (first, second), strict=True)]
    shown = {
        "before": first_folder.name,
        "after": second_folder.name,
        "margin": format_percent(margin),
        "tables": [Table(("", "folder", "device", *CELL_COLUMNS), rows), _ratio_table(found)],
        "notes": _notes([found]),
        "only": [],
        "figure": figure,
        "caption": CAPTIONS["runs"],
    }
    return render("comparison.html", snapshot, Selection(), shown)


def report_page(snapshot: Snapshot, folder: str) -> str:
    """Return the whole report of a folder and all below it.

    Raises:
        UsageError: There is nothing to report.
    """
    path = snapshot.root if folder == "." else snapshot.root / folder
    with _DRAWING:
        return render_contents(snapshot.below(folder), path)


def _ratio_table(found: Difference) -> Table:
    names = [name for name in DIFFERENCE_COLUMNS if name in ("speed-up", "95 % CI", "runs", "verdict")]
    row = dict(zip(DIFFERENCE_COLUMNS, found.row(), strict=True))
    return Table([*names, "at equal bandwidth"], [[*(row[name] for name in names), str(found.equal_bandwidth.ratio)]])


def _notes(found: Sequence[Difference]) -> list[str]:
    return [
        f"Environments differ in {text}." for text in dict.fromkeys(text for it in found for text in it.environment)
    ]


def _only(found: Differences) -> list[tuple[str, Sequence[str]]]:
    return [(when, names) for when, names in (("before", found.only_before), ("after", found.only_after)) if names]


def _records(snapshot: Snapshot, summary: CellSummary) -> list[Record]:
    return [snapshot.entries[run.record_id].record for run in summary.runs]


def _cell_of(folder: Folder, record: Record) -> str:
    if record.kind != "run":
        return ""
    return next(
        (cell_id for cell_id, it in folder.cells.items() if any(run is record for run in it.runs)),
        "",
    )


def _steps_svg(run: Timed) -> str:
    with _DRAWING:
        return figure_svg(step_figure(run))


def _record_tables(record: Record) -> list[Table]:
    tables = [Table(LISTING_COLUMNS, [listing_row(record)])]
    if isinstance(record, Timed) and record.cell.part == "step":
        tables = [Table(CELL_COLUMNS, [cell_row(summarise_cell([record]))])]
    if isinstance(record, Anatomy):
        ledgers = make_ledgers([record])
        tables += [Table(LEDGER_COLUMNS, ledger_rows(it), " ".join(ledger_checks(it))) for it in ledgers]
    return tables


def _plain_facts(record: Record) -> dict[str, str]:
    """Return what a record says in one word or number, by the name of its field."""
    plain = {name: value for name, value in record if isinstance(value, str | int | float) and name != "schema_version"}
    facts = {name.replace("_", " "): str(value) for name, value in plain.items()}
    if isinstance(record, Timed) and record.cell.part != "step":
        share = record.fraction_of_ceiling(floor_bytes(record.cell)["streamed"])
        facts |= {"of ceiling, streamed bytes": format_percent(share)}
    return facts


def _sections(record: Record) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the tables below the figure: title, columns and rows of each."""
    if isinstance(record, EnergyRun) and record.measured:
        taken = record.measured
        return [
            ("Environment", ["", ""], _pairs(environment_facts(taken.environment, taken.path))),
            ("Path", ["", ""], _pairs(taken.path.facts)),
        ]
    if not isinstance(record, Timed):
        return []
    e, path = record.environment, record.path
    sensors = [[name, str(e.sensors_before.get(name, "-")), str(value)] for name, value in e.sensors_after.items()]
    ceilings = [
        [str(it.after_steps), format_bandwidth(it.bytes_per_second), str(len(it.pass_seconds)), it.method]
        for it in record.ceilings
    ]
    return [
        ("Path really taken", ["fact", "value"], _pairs(path.facts)),
        ("Operators of a step", ["operator", "calls"], [[name, str(calls)] for name, calls in path.operators.items()]),
        ("Readings of the ceiling", ["after steps", "bandwidth", "passes", "method"], ceilings),
        ("Environment", ["", ""], _pairs(environment_facts(e, path))),
        ("Protocol", ["", ""], _pairs(record.protocol.model_dump())),
        ("Sensors", ["sensor", "before", "after"], sensors),
    ]


def _pairs(facts: Mapping[str, object]) -> list[list[str]]:
    return [[name.replace("_", " "), str(value)] for name, value in facts.items()]


def _environments(runs: Sequence[Timed]) -> list[dict[str, str]]:
    every = [environment_facts(run.environment, run.path) for run in runs]
    return [facts for place, facts in enumerate(every) if facts not in every[:place]]
