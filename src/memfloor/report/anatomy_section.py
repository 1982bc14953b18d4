"""The part of the page that shows anatomies: of each cell its ledger, charts, and where its traces lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memfloor.record import Anatomy, Store
from memfloor.report.anatomy_figures import ANATOMY_FIGURES
from memfloor.report.figures import figure_svg
from memfloor.report.gantt import gantt
from memfloor.report.interactive import Chart
from memfloor.report.ledger import LEDGER_COLUMNS, Ledger, ledger_checks, ledger_rows, make_ledgers
from memfloor.report.tables import runtime_label, workload_text
from memfloor.report.templates import template
from memfloor.report.timeline import slowest_first
from memfloor.report.waterfall import waterfall

CAPTIONS = {
    "2": "Figure 2. The kernels of the middle decoder block in order, those in a row that serve one module as one bar: "
    "time in us, and for those that read weights or the KV cache their bytes and the bandwidth they reach. Left out: "
    "cells whose kernels are known by their names alone.",
    "3": "Figure 3. When these kernels ran in a traced step, those that overlap below each other; a profiler widens "
    "the gaps where kernels are launched one by one. Where no layer is known: a layer's share of the step.",
    "4": "Figure 4. The whole step by owner, of the anatomy with the median step or the two in the middle: left in "
    "time, right as parts of the step. Grey: the floor at the paired ceiling. What passes the black line was predicted "
    "and not timed: unexplained below zero. Hatched, if shown: the study's published anatomy, whose compute is below "
    "every byte floor.",
}


@dataclass(frozen=True, slots=True)
class LedgerSection:
    """Hold what is shown of one ledger.

    Attributes:
        title: Model, runtime, context and device.
        rows: Of its table.
        checks: What checks it, in sentences.
        waterfall: The ledger as a chart.
        gantt: A traced step of the typical anatomy.
        trace_files: The files of its traces that lie below the folder.
    """

    title: str
    rows: Sequence[Sequence[str]]
    checks: Sequence[str]
    waterfall: Chart
    gantt: Chart
    trace_files: Sequence[Path]


def anatomy_section(anatomies: Sequence[Anatomy], folder: Path) -> str:
    """Return the section of the page as HTML; nothing where there are no anatomies."""
    if not anatomies:
        return ""
    return template("anatomies").render(
        columns=LEDGER_COLUMNS,
        ledgers=ledger_sections(anatomies, folder),
        figures=[(figure_svg(draw(anatomies)), CAPTIONS[name]) for name, draw in ANATOMY_FIGURES.items()],
    )


def ledger_sections(anatomies: Sequence[Anatomy], folder: Path) -> list[LedgerSection]:
    """Return a section for each cell on each device."""
    found = Store(folder).trace_files()
    return [_section(ledger, found) for ledger in slowest_first(make_ledgers(anatomies))]


def _section(ledger: Ledger, found: dict[str, list[Path]]) -> LedgerSection:
    return LedgerSection(
        title=_title(ledger),
        rows=ledger_rows(ledger),
        checks=ledger_checks(ledger),
        waterfall=waterfall(ledger),
        gantt=gantt(ledger.typical),
        trace_files=[path for anatomy in ledger.anatomies for path in found.get(anatomy.record_id, ())],
    )


def _title(ledger: Ledger) -> str:
    cell = ledger.anatomies[0].cell
    device = ledger.anatomies[0].environment.device.name
    return f"{cell.spec.name} {runtime_label(cell)}, context {workload_text(cell)}, {device}"
