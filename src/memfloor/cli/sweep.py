"""`memfloor sweep`: one plan of cells over a fleet of machines."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from memfloor.cli.fleet_progress import FleetProgress
from memfloor.cli.output import print_json, print_table, print_text
from memfloor.errors import UsageError
from memfloor.prices import catalogue, read_prices
from memfloor.units import SECONDS_PER_HOUR, format_percent

if TYPE_CHECKING:
    from memfloor.sweep.cost import Estimate
    from memfloor.sweep.driver import Outcome

EXIT_INCOMPLETE = 1


def sweep(
    plan: Path,
    /,
    *,
    out: str = "memfloor-runs",
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    ray: str | None = None,
    prices: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Take the cells of a plan on all its machines; started again, take what is missing.

    The exit status is 1 where runs were left for want of a worker, or none was taken.

    Args:
        plan: TOML file of grids and machines; docs/fleet.md says what it holds.
        out: Folder of the records, or URL of an object store, as s3://bucket/folder.
        dry_run: Check the plan and say what it would take and cost, without asking any machine.
        ray: Address of the Ray cluster, HOST:PORT, or auto for the one on this machine.
        prices: TOML file of prices of your own, of the form of data/prices.toml; they replace a device's.
        json: End standard output with JSON.
    """
    from memfloor.sweep.cost import estimates
    from memfloor.sweep.driver import Sweep
    from memfloor.sweep.executors import fleet
    from memfloor.sweep.ledger import ledger_at
    from memfloor.sweep.plan import read_plan

    wanted = read_plan(plan)
    if ray is not None and all(machine.executor != "ray" for machine in wanted.machine):
        raise UsageError(f"--ray {ray} is for machines with executor = 'ray', and {plan} has none")
    listed = catalogue().beneath(read_prices(prices)) if prices else catalogue()
    ledger = ledger_at(out, wanted.name)
    expected = estimates(wanted, ledger.records(), listed)
    if dry_run or not json:
        _show_estimates(expected, json)
    if dry_run:
        return
    with ledger, FleetProgress() as progress:
        work = Sweep(wanted, ledger, progress)
        with fleet([machine for machine in wanted.machine if work.is_missing(machine)], ray) as slots:
            outcome = work.take(slots)
    _show_outcome(outcome, ledger.where, json)


def _show_estimates(expected: "Sequence[Estimate]", json: bool) -> None:
    from memfloor.sweep.cost import totals

    cost = totals(expected)
    if json:
        print_json({"machines": [item.to_json() for item in expected], "cost": cost})
        return
    columns = ("machine", "cells", "runs", "on record", "worker hours", "workers", "wall hours", "cost", "time from")
    print_table("What is missing, and what it would take", columns, map(_row, expected))
    if cost:
        print_text("In all " + " and ".join(_money(amounts, currency) for currency, amounts in cost.items()) + ".")
    unpriced = [item.machine.name for item in expected if item.per_hour is None]
    if unpriced:
        print_text(f"No price for {', '.join(unpriced)}: give a machine hardware of the catalogue, or a price.")


def _row(item: "Estimate") -> list[str]:
    workers = str(item.workers) if item.workers else "?"
    measured = f"{format_percent(item.measured_share)} measured"
    return [
        item.machine.name,
        str(item.cells),
        str(item.runs),
        str(item.done),
        f"{item.worker_seconds / SECONDS_PER_HOUR:.2f}",
        workers,
        f"{item.wall_seconds / SECONDS_PER_HOUR:.2f}",
        _money(item.cost, item.currency) if item.cost and item.currency else "no price",
        measured if item.measured_share else f"assumed, {item.machine.assumed_run_seconds:g} s a run",
    ]


def _money(amounts: tuple[float, float], currency: str) -> str:
    low, high = (f"{amount:.2f}" for amount in amounts)
    return f"{low} {currency}" if low == high else f"{low} to {high} {currency}"


def _show_outcome(outcome: "Outcome", where: str, json: bool) -> None:
    if json:
        print_json({**asdict(outcome), "records": where})
    else:
        print_text(
            f"{outcome.taken} runs taken beside {outcome.before} on record, {outcome.failed} failures, "
            f"{outcome.skipped} skips, {outcome.lost} workers lost; records in {where}"
        )
    if outcome.untaken:
        print(f"memfloor: no worker was left for {outcome.untaken} runs; start the sweep again", file=sys.stderr)
    if outcome.untaken or not outcome.taken + outcome.before:
        sys.exit(EXIT_INCOMPLETE)
