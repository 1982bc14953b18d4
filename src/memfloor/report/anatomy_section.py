"""What the page says of each cell that was taken apart: ledger, charts, and where its traces lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memfloor.record import Anatomy, Store
from memfloor.report.gantt import gantt
from memfloor.report.interactive import Chart
from memfloor.report.ledger import Ledger, ledger_checks, ledger_rows, make_ledgers
from memfloor.report.tables import runtime_label
from memfloor.report.timeline import slowest_first, typical
from memfloor.report.waterfall import waterfall


@dataclass(frozen=True, slots=True)
class LedgerSection:
    """Hold what is shown of one ledger.

    Attributes:
        title: Model, runtime, context and device.
        rows: Of its table.
        checks: What checks it, in sentences.
        waterfall: The ledger as a chart.
        gantt: A traced step of the anatomy that the waterfall shows.
        trace_files: The files of its traces that lie below the folder.
    """

    title: str
    rows: Sequence[Sequence[str]]
    checks: Sequence[str]
    waterfall: Chart
    gantt: Chart
    trace_files: Sequence[Path]


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
        gantt=gantt(typical(ledger.anatomies)),
        trace_files=[path for anatomy in ledger.anatomies for path in found.get(anatomy.record_id, ())],
    )


def _title(ledger: Ledger) -> str:
    cell = ledger.anatomies[0].cell
    device = ledger.anatomies[0].environment.device.name
    return f"{cell.spec.name} {runtime_label(cell)}, context {cell.workload.context_len}, {device}"
