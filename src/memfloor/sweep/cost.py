"""What a sweep would take: runs, hours and money, before its first run."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from memfloor.errors import UsageError
from memfloor.hardware import find_device
from memfloor.prices import Ownership, PriceList, parse_price
from memfloor.record import Record, Run
from memfloor.sweep.machines import LocalMachine, Machine, RayMachine, SshMachine
from memfloor.sweep.plan import SweepPlan
from memfloor.units import SECONDS_PER_HOUR

# Between two runs of a session that was interrupted lies more than a run.
LONGEST_GAP = 3.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Hold what the machines of one name would take.

    Attributes:
        machine: The machines.
        cells: Cells of the plan.
        runs: Runs of the plan.
        done: Runs on record.
        worker_seconds: Time of all that is missing, on one worker after another.
        measured_share: Share of the missing runs whose time is that of like runs on record; the others' is assumed.
        workers: At once; None where the cluster will say.
        per_hour: Lowest and highest price of an hour of a worker; None where there is no price.
        currency: Of the price.
    """

    machine: Machine
    cells: int
    runs: int
    done: int
    worker_seconds: float
    measured_share: float
    workers: int | None
    per_hour: tuple[float, float] | None
    currency: str | None

    @property
    def cost(self) -> tuple[float, float] | None:
        """Return the lowest and the highest cost of all workers; None where there is no price."""
        if self.per_hour is None:
            return None
        low, high = self.per_hour
        return low * self.worker_seconds / SECONDS_PER_HOUR, high * self.worker_seconds / SECONDS_PER_HOUR

    @property
    def wall_seconds(self) -> float:
        """Return the time until the last run has ended, if all workers are busy until then; of one if unknown."""
        return self.worker_seconds / (self.workers or 1)

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as plain data for `--json`."""
        return {
            "machine": self.machine.name,
            "cells": self.cells,
            "runs": self.runs,
            "done": self.done,
            "worker_seconds": self.worker_seconds,
            "measured_share": self.measured_share,
            "workers": self.workers,
            "wall_seconds": self.wall_seconds,
            "per_hour": self.per_hour,
            "currency": self.currency,
            "cost": self.cost,
        }


def estimates(plan: SweepPlan, records: Sequence[Record], prices: PriceList) -> list[Estimate]:
    """Return what each machine of a plan would take.

    Args:
        plan: The plan.
        records: What is on record, of this sweep and of others.
        prices: What an hour of a device costs.

    Raises:
        UsageError: A provider is unknown, or prices of one device are in several currencies.
    """
    found, seconds = {record.record_id for record in records}, _run_seconds(records)
    return [_estimate(plan, machine, found, seconds, prices) for machine in plan.machine]


def totals(found: Iterable[Estimate]) -> dict[str, tuple[float, float]]:
    """Return the lowest and the highest cost by currency, of the machines that have a price."""
    by_currency: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for item in found:
        if item.cost is not None and item.currency is not None:
            by_currency[item.currency].append(item.cost)
    return {
        currency: (sum(low for low, _ in costs), sum(high for _, high in costs))
        for currency, costs in sorted(by_currency.items())
    }


def _estimate(
    plan: SweepPlan, machine: Machine, found: set[str], seconds: Mapping[tuple[str, str], float], prices: PriceList
) -> Estimate:
    cells = plan.cells(machine)
    names = find_device(machine.hardware).driver_names if machine.hardware else sorted({name for _, name in seconds})
    done, total, measured = 0, 0.0, 0
    for cell in cells:
        like = [seconds[key] for name in names if (key := (cell.key, name)) in seconds]
        missing = sum(plan.run_id(machine, cell, block) not in found for block in range(plan.runs))
        done += plan.runs - missing
        total += missing * (max(like) if like else machine.assumed_run_seconds)
        measured += missing if like else 0
    runs = len(cells) * plan.runs
    per_hour, currency = _price(machine, prices)
    share = measured / (runs - done) if runs > done else 1.0
    return Estimate(machine, len(cells), runs, done, total, share, _workers(machine), per_hour, currency)


def _run_seconds(records: Sequence[Record]) -> dict[tuple[str, str], float]:
    """Return, by cell key and device, the median time from the start of a run to that of the next of its session."""
    sessions: dict[str, list[Run]] = defaultdict(list)
    for record in records:
        if isinstance(record, Run):
            sessions[record.session_id].append(record)
    gaps: dict[tuple[str, str], list[float]] = defaultdict(list)
    for runs in sessions.values():
        for run, following in pairwise(sorted(runs, key=lambda run: run.taken_at)):
            begin, end = (datetime.fromisoformat(item.taken_at) for item in (run, following))
            gaps[run.cell.key, run.environment.device.name].append((end - begin).total_seconds())
    return {key: median(gap for gap in found if gap <= LONGEST_GAP * min(found)) for key, found in gaps.items()}


def _workers(machine: Machine) -> int | None:
    match machine:
        case RayMachine():
            return machine.workers
        case SshMachine():
            return len(machine.hosts) * max(1, len(machine.gpus))
        case LocalMachine():
            return max(machine.workers, len(machine.gpus))


def _price(machine: Machine, prices: PriceList) -> tuple[tuple[float, float] | None, str | None]:
    if machine.price is not None:
        given = parse_price(f"{machine.hardware or machine.name}={machine.price}")
        return (given.per_hour, given.per_hour), given.currency
    listed = prices.of(machine.hardware) if machine.hardware else []
    if machine.provider is not None:
        providers = {price.provider for price in listed}
        if machine.provider not in providers:
            raise UsageError.unknown(f"provider of {machine.hardware}", machine.provider, providers)
        listed = [price for price in listed if price.provider == machine.provider]
    if not listed:
        return None, None
    currencies = sorted({price.currency for price in listed})
    if len(currencies) > 1:
        raise UsageError(f"{machine.hardware} is priced in {' and '.join(currencies)}; name a provider or a price")
    # The catalogue has a price of electricity, and lies beneath every other list.
    assert prices.electricity is not None
    ownership = Ownership(electricity=prices.electricity)
    hours = [price.hourly(ownership) for price in listed]
    return (min(hours), max(hours)), currencies[0]
