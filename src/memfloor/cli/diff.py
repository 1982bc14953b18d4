"""`memfloor diff`: what has changed between two folders of records, or two commits, cell by cell."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from memfloor.cli.output import print_json, print_text, print_wide_table
from memfloor.cli.parse import check_margin
from memfloor.cli.records import read_store
from memfloor.errors import UsageError
from memfloor.record import Failure, Run, Skip

if TYPE_CHECKING:
    from memfloor.report.difference import Differences

EXIT_NOTHING_IN_COMMON, EXIT_FAILED = 1, 4
WIDE_TABLE = 150
NARROW = (0, 1, 2, 6, 9)
Verdict = Literal["faster", "slower", "unclear", "missing"]


def diff(
    before: str,
    after: str,
    /,
    *,
    margin: float = 0.02,
    fail_if: Annotated[tuple[Verdict, ...], Parameter(negative=())] = (),
    markdown: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Compare two folders of records cell by cell, or two commits of one: FOLDER@COMMIT takes the runs of that commit.

    The exit status is 1 where no cell is in both, and 4 where --fail-if holds.

    Args:
        before: Folder with records, or FOLDER@COMMIT with the first digits of a commit.
        after: The same.
        margin: Share by which a cell may change and count as equivalent.
        fail_if: End with status 4 if a cell is faster, slower or unclear, or missing after; repeatable.
        markdown: Print a table for GitHub instead.
        json: Print one JSON object instead.
    """
    from memfloor.report.difference import differences

    check_margin(margin)
    found = differences(_records(before), _records(after), margin)
    if json:
        print_json(
            {
                "cells": [item.to_json() for item in found.cells],
                "only_before": list(found.only_before),
                "only_after": list(found.only_after),
            }
        )
    else:
        _show(found, markdown)
    if not found.cells:
        print("memfloor: no cell has times in both", file=sys.stderr)
        sys.exit(EXIT_NOTHING_IN_COMMON)
    if found.having(fail_if) or ("missing" in fail_if and found.only_before):
        sys.exit(EXIT_FAILED)


def _show(found: "Differences", markdown: bool) -> None:
    from memfloor.report.difference import DIFFERENCE_COLUMNS

    rows = [item.row() for item in found.cells]
    if markdown:
        print(_markdown(DIFFERENCE_COLUMNS, rows))
    else:
        print_wide_table("After over before", DIFFERENCE_COLUMNS, rows, WIDE_TABLE, NARROW)
    differing = dict.fromkeys(text for item in found.cells for text in item.environment)
    notes = [f"Environments differ in {text}." for text in differing]
    notes += [
        f"Only {when}, {len(names)}: {'; '.join(names)}."
        for when, names in (("before", found.only_before), ("after", found.only_after))
        if names
    ]
    for note in notes:
        print_text(f"\n{note}" if markdown else note)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *cells))


def _records(place: str) -> list[Run | Failure | Skip]:
    """Return the records of FOLDER or FOLDER@COMMIT.

    Raises:
        UsageError: There is no such folder, or it has no run of that commit.
    """
    folder, at, commit = place.rpartition("@")
    # A folder may have an @ in its name.
    if not at or Path(place).is_dir():
        return list(read_store(Path(place)))
    records = read_store(Path(folder))
    chosen = [item for item in records if isinstance(item, Run) and _is_of(item, commit)]
    if not chosen:
        known = sorted({str(item.environment.git_commit)[:10] for item in records if isinstance(item, Run)})
        raise UsageError(f"{folder} has no run of commit {commit!r}; it has {', '.join(known) or 'none'}")
    return list(chosen)


def _is_of(run: Run, commit: str) -> bool:
    return bool(commit) and (run.environment.git_commit or "").startswith(commit)
