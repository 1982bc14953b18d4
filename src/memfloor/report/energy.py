"""From energy runs to one line per cell: joules per token and watts, with idling and without, and who measured."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from memfloor.hardware import short_name
from memfloor.record import Cell, DeviceInfo, EnergyRun, EnergySensor, MeasuredEnergy
from memfloor.report.summary import cell_json
from memfloor.stats import BlockMean, block_mean

Value = Callable[[MeasuredEnergy], float]


@dataclass(frozen=True, slots=True)
class EnergySummary:
    """Hold what the energy runs of one cell on one device by one sensor say; means over runs with t intervals.

    Attributes:
        runs: The runs, all measured.
    """

    cell: Cell
    device: DeviceInfo
    sensor: EnergySensor
    runs: tuple[EnergyRun, ...]

    @property
    def measured(self) -> list[MeasuredEnergy]:
        """Return what each run measured."""
        return [run.measured for run in self.runs if run.measured]

    @property
    def device_name(self) -> str:
        """Return the device's short name, or its driver's where it is not in the catalogue."""
        return short_name(self.device.name)

    @property
    def watts(self) -> BlockMean:
        """Return the power while it decoded."""
        return self._mean(lambda taken: taken.watts)

    @property
    def idle_watts(self) -> BlockMean:
        """Return the power while it idled with the model loaded."""
        return self._mean(lambda taken: taken.idle_watts)

    @property
    def joules_per_token(self) -> BlockMean:
        """Return the energy of a token, idling included."""
        return self._mean(lambda taken: taken.joules / self._tokens(taken))

    @property
    def joules_per_token_above_idle(self) -> BlockMean:
        """Return the energy of a token less what the device would have taken idle in the same time."""
        return self._mean(lambda taken: _above_idle(taken) / self._tokens(taken))

    @property
    def tokens_per_joule(self) -> BlockMean:
        """Return the tokens that a joule gives, idling included."""
        return self._mean(lambda taken: self._tokens(taken) / taken.joules)

    @property
    def tokens_per_joule_above_idle(self) -> BlockMean | None:
        """Return the tokens that a joule above idling gives; None where a run took no more than idling does."""
        if any(_above_idle(taken) <= 0 for taken in self.measured):
            return None
        return self._mean(lambda taken: self._tokens(taken) / _above_idle(taken))

    @property
    def step_seconds(self) -> BlockMean:
        """Return the mean step of the windows; one that is timed by itself is another matter."""
        return self._mean(lambda taken: (taken.decoding.seconds - taken.rewind_seconds) / taken.steps)

    @property
    def depths(self) -> tuple[int, int]:
        """Return the fewest and the most tokens that any step found in the KV cache."""
        found = [taken.depths for taken in self.measured]
        return min(low for low, _ in found), max(high for _, high in found)

    @property
    def window_seconds(self) -> float:
        """Return the shortest window of decoding."""
        return min(taken.decoding.seconds for taken in self.measured)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain data for `--json`."""
        above = self.tokens_per_joule_above_idle
        figures = {
            "watts": self.watts,
            "idle_watts": self.idle_watts,
            "joules_per_token": self.joules_per_token,
            "joules_per_token_above_idle": self.joules_per_token_above_idle,
            "tokens_per_joule": self.tokens_per_joule,
            "step_seconds": self.step_seconds,
        }
        return {
            **cell_json(self.cell),
            "device": self.device.name,
            "runs": len(self.runs),
            "sensor": self.sensor.model_dump(),
            "window_seconds": self.window_seconds,
            "depths": self.depths,
            # What the clocks were, right after each window of each run.
            "sensors": [
                {name: getattr(taken, name).sensors for name in ("idle_before", "decoding", "idle_after")}
                for taken in self.measured
            ],
            **{name: {"value": mean.value, "ci95": mean.ci95} for name, mean in figures.items()},
            "tokens_per_joule_above_idle": above and {"value": above.value, "ci95": above.ci95},
            "problem": None,
        }

    def _tokens(self, taken: MeasuredEnergy) -> int:
        return taken.steps * self.cell.workload.batch

    def _mean(self, value: Value) -> BlockMean:
        return block_mean([value(taken) for taken in self.measured])


@dataclass(frozen=True, slots=True)
class WithoutEnergy:
    """Hold a cell that has no energy, and why."""

    cell: Cell
    device: DeviceInfo | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data for `--json`."""
        device = self.device.name if self.device else None
        return {**cell_json(self.cell), "device": device, "runs": 0, "problem": self.reason}


@dataclass(frozen=True, slots=True)
class Energies:
    """Hold all that records say of energy.

    Attributes:
        summaries: By device, model, context and energy of a token.
        without: Cells that gave none.
    """

    summaries: tuple[EnergySummary, ...] = ()
    without: tuple[WithoutEnergy, ...] = ()


def energies_of(runs: Iterable[EnergyRun]) -> Energies:
    """Group energy runs by cell, device and sensor; a cell that was measured on a device once is not without."""
    groups: dict[tuple[str, str, str], list[EnergyRun]] = defaultdict(list)
    lost: dict[tuple[str, str], WithoutEnergy] = {}
    for run in runs:
        if run.measured is not None:
            name = run.measured.environment.device.name
            groups[run.cell.key, name, run.measured.sensor.name].append(run)
        else:
            name = run.device.name if run.device else ""
            lost[run.cell.key, name] = WithoutEnergy(run.cell, run.device, run.problem or "")
    measured = {(key, name) for key, name, _ in groups} | {(key, "") for key, _, _ in groups}
    without = tuple(cell for identity, cell in lost.items() if identity not in measured)
    return Energies(tuple(sorted(map(_summary, groups.values()), key=_order)), without)


def energy_text(run: EnergyRun) -> str:
    """Return what one run found, in a few words."""
    if run.measured is None:
        return str(run.problem)
    tokens = run.measured.steps * run.cell.workload.batch
    return (
        f"{run.measured.joules / tokens:.4g} J a token, {run.measured.watts:.4g} W, "
        f"idle {run.measured.idle_watts:.4g} W by {run.measured.sensor.name}"
    )


def _summary(runs: Sequence[EnergyRun]) -> EnergySummary:
    taken = runs[0].measured
    assert taken is not None
    return EnergySummary(runs[0].cell, taken.environment.device, taken.sensor, tuple(runs))


def _above_idle(taken: MeasuredEnergy) -> float:
    return taken.joules - taken.idle_watts * taken.decoding.seconds


def _order(summary: EnergySummary) -> tuple[str, str, int, int, float]:
    workload = summary.cell.workload
    name = summary.device.name, summary.cell.spec.name
    return (*name, workload.context_len, workload.batch, summary.joules_per_token.value)
