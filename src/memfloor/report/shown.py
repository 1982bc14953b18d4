"""Which cells and comparisons of a large folder the figures show; the tables hold all of them."""

from collections import defaultdict
from collections.abc import Sequence

from memfloor.report.compared import Compared
from memfloor.report.summary import CellSummary

MOST_CELLS, MOST_COMPARISONS, MOST_SESSIONS = 24, 40, 6
# Rows beyond which a table stands in a box of its own, with a field to search it.
LONG_TABLE = 40


def by_workload(summaries: Sequence[CellSummary]) -> list[list[CellSummary]]:
    """Return the cells of each device, model, context and batch size; first those that most runtimes were taken on."""
    groups: dict[tuple[str, str, int, int], list[CellSummary]] = defaultdict(list)
    for summary in summaries:
        cell = summary.cell
        key = summary.device.name, cell.spec.name, cell.workload.context_len, cell.workload.batch
        groups[key].append(summary)
    return sorted(groups.values(), key=lambda group: -len(group))


def drawn_cells(summaries: Sequence[CellSummary]) -> list[CellSummary]:
    """Return the cells that figures show, in their order: where there are too many, of the most compared workloads."""
    if len(summaries) <= MOST_CELLS:
        return list(summaries)
    chosen = [summary for group in by_workload(summaries) for summary in group][:MOST_CELLS]
    identities = {id(summary) for summary in chosen}
    return [summary for summary in summaries if id(summary) in identities]


def drawn_comparisons(compared: Sequence[Compared], most: int = MOST_COMPARISONS) -> list[Compared]:
    """Return the comparisons that a figure shows, in their order: registered ones and those of many blocks first."""
    if len(compared) <= most:
        return list(compared)
    chosen = sorted(compared, key=lambda item: (item.comparison is None, -len(item.blocks)))[:most]
    identities = {id(item) for item in chosen}
    return [item for item in compared if id(item) in identities]


def left_out(shown: int, of: int, what: str) -> str:
    """Return what a caption says of what its figure leaves out; nothing where it shows all."""
    return f" Shown: {shown} of {of} {what}; the table holds all." if shown < of else ""
