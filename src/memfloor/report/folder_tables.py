"""The tables of a folder, as far as a query names them: its runs by the index, all else by reading its records."""

from collections.abc import Collection
from pathlib import Path

from memfloor.record import Contents, Store, UnreadableFile, read_digests
from memfloor.report.afterwards import compared_in
from memfloor.report.sql import COLUMNS, Tables, tables_of
from memfloor.report.sql_tables import digest_row
from memfloor.report.weight_ladder import ladders_in


def tables_in(folder: Path, names: Collection[str]) -> tuple[Tables, list[UnreadableFile]]:
    """Return some tables of a folder, and the files that they leave out.

    Args:
        folder: Folder with records.
        names: Of the tables.

    Raises:
        UsageError: The folder does not exist.
    """
    if set(names) == {"runs"}:
        digests, unreadable = read_digests(folder)
        rows = (digest_row(digest) for digest in digests)
        return {"runs": (COLUMNS["runs"], [row for row in rows if row is not None])}, unreadable
    found = Store(folder).contents()
    tables = _tables(found, names)
    return {name: tables[name] for name in names}, list(found.unreadable)


def _tables(found: Contents, names: Collection[str]) -> Tables:
    return tables_of(
        found.runs,
        found.anatomies,
        # These two take seconds for thousands of runs.
        compared_in(found) if "comparisons" in names else (),
        ladders_in(found) if "weight_paths" in names else (),
        found.of("attention").runs,
        found.energy_runs,
        found.control_loops,
    )
