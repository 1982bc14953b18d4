"""From runs to one line per cell: latency with its interval, and how near the floor by each convention."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from memfloor.floor import CONVENTIONS, attention_traffic, step_traffic
from memfloor.hardware import match_driver_name, short_name
from memfloor.record import Cell, DeviceInfo, Failure, Run, Skip, Timed
from memfloor.report.by_cell import Given, InvalidCell, by_cell, cell_json
from memfloor.stats import Estimate, estimate, estimate_of, spread_of


@dataclass(frozen=True, slots=True)
class Fraction:
    """Hold the share of a bandwidth that a step's bytes reach, by one convention.

    Attributes:
        total_bytes: Bytes of one step by the convention.
        ceiling: Of the paired ceiling, run by run and part by part.
        peak: Of the datasheet peak; None for a device that is not in the catalogue.
    """

    total_bytes: int
    ceiling: Estimate
    peak: Estimate | None


@dataclass(frozen=True, slots=True)
class CellSummary:
    """Hold what the runs of one cell on one device say."""

    cell: Cell
    device: DeviceInfo
    runs: tuple[Timed, ...]
    p50_seconds: Estimate
    ceiling_bytes_per_second: Estimate
    peak_bytes_per_second: float | None
    cv: float | None
    fractions: dict[str, Fraction]

    @property
    def device_name(self) -> str:
        """Return the device's short name, or its driver's where it is not in the catalogue."""
        return short_name(self.device.name)

    @property
    def tokens_per_second(self) -> float:
        """Return the tokens that the batch decodes in a second at the median step."""
        return self.cell.workload.batch / self.p50_seconds.value

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain data for `--json`."""
        return {
            **cell_json(self.cell),
            "device": self.device.name,
            "runs": len(self.runs),
            "p50_seconds": self.p50_seconds.value,
            "ci95_seconds": self.p50_seconds.ci95,
            "cv": self.cv,
            "tokens_per_second": self.tokens_per_second,
            "ceiling_bytes_per_second": self.ceiling_bytes_per_second.value,
            "peak_bytes_per_second": self.peak_bytes_per_second,
            "fraction": {
                name: {
                    "bytes": fraction.total_bytes,
                    "peak": fraction.peak.value if fraction.peak else None,
                    "ceiling": fraction.ceiling.value,
                    "ceiling_ci95": fraction.ceiling.ci95,
                }
                for name, fraction in self.fractions.items()
            },
        }


def summarise(records: Iterable[Run | Failure | Skip]) -> tuple[list[CellSummary], list[InvalidCell]]:
    """Group records by cell, device and protocol; return the cells with times and those that never gave any."""
    groups, invalid = by_cell(records, _given)
    runs = [[run for run in group if isinstance(run, Run)] for group in groups]
    return sorted(map(summarise_cell, runs), key=_order), invalid


def _given(record: Run | Failure | Skip) -> Given:
    if isinstance(record, Run):
        return Given(record.environment.device, record.protocol)
    return Given(record.device, reason=record.lost_reason)


def summarise_cell(runs: Sequence[Timed]) -> CellSummary:
    """Return what the runs of one cell on one device say."""
    cell, device = runs[0].cell, runs[0].environment.device
    catalogued = match_driver_name(device.name)
    peak = catalogued.peak_bytes_per_second if catalogued else None
    p50_seconds = [run.p50_seconds for run in runs]
    # Of a byte: the conventions differ by a factor, and are thousands of intervals in a large store.
    of_ceiling = estimate(runs, lambda run: run.fraction_of_ceiling(1))
    of_peak = estimate_of([1 / seconds / peak for seconds in p50_seconds]) if peak else None
    return CellSummary(
        cell=cell,
        device=device,
        runs=tuple(runs),
        p50_seconds=estimate_of(p50_seconds),
        ceiling_bytes_per_second=estimate(runs, lambda run: run.ceiling_bytes_per_second),
        peak_bytes_per_second=peak,
        cv=spread_of(p50_seconds),
        fractions={
            name: Fraction(count, of_ceiling.times(count), of_peak.times(count) if of_peak else None)
            for name, count in floor_bytes(cell).items()
        },
    )


def floor_bytes(cell: Cell) -> dict[str, int]:
    """Return the bytes that the part of a step which a cell runs must move, by convention; attention has but one."""
    if cell.part == "attention":
        return {"streamed": attention_traffic(cell.spec, cell.workload).total_bytes}
    return {name: step_traffic(cell.spec, cell.workload, name).total_bytes for name in CONVENTIONS}


def _order(summary: CellSummary) -> tuple[str, str, int, int, str]:
    cell = summary.cell
    return (
        summary.device.name,
        cell.spec.name,
        cell.workload.context_len,
        cell.workload.batch,
        cell.key,
    )
