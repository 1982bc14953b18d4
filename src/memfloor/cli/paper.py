"""`memfloor paper`: the published study, recomputed."""

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from memfloor.cli.output import print_json, print_table, print_text
from memfloor.floor import CONVENTIONS
from memfloor.report.paper import findings, published, published_cells
from memfloor.units import format_percent, format_seconds


def paper(*, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Recompute the study's published figures under each byte convention and print what does not add up.

    Args:
        json: Print one JSON object instead.
    """
    cells, found = published_cells(), findings()
    if json:
        print_json(
            {
                "title": published()["title"],
                "source": published()["source"],
                "cells": [asdict(cell) for cell in cells],
                "findings": [asdict(finding) for finding in found],
            }
        )
        return
    print_text(f"{published()['title']}\n{published()['source']}\n")
    rows = [
        [
            f"{cell.device} {cell.context_len}",
            format_percent(cell.fraction),
            *(format_seconds(cell.implied_step_seconds[name]) for name in CONVENTIONS),
        ]
        for cell in cells
    ]
    columns = ["device, context", "published", *(f"step if {name}" for name in CONVENTIONS)]
    print_table("Published fractions of the floor, Qwen-2.5-7B, and the steps they imply", columns, rows)
    for index, finding in enumerate(found, 1):
        print_text(f"{index}. {finding.sentence}\n")
