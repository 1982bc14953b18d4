"""How long would a step take where nothing was measured? As a model of steps expects it that was fitted to others.

They are measured and published ones. Each prediction stands beside the errors of the same model on devices that it was
not fitted to.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from memfloor.errors import UsageError
from memfloor.floor import step_traffic
from memfloor.hardware import find_device
from memfloor.record import Cell
from memfloor.report.paper import published, published_cells
from memfloor.report.step_model import Fit, LeftOut, Observation, fit_model, leave_devices_out
from memfloor.report.summary import CellSummary
from memfloor.report.tables import runtime_label
from memfloor.spec import ModelSpec, Workload, load_model

# How far beyond what was measured a prediction may lie, as a factor.
REACH = 2.0
FEWEST_DEVICES, FEWEST_CELLS = 2, 3
PUBLISHED_RUNTIME = "hf-eager"


@dataclass(frozen=True, slots=True)
class Prediction:
    """Hold a prediction and what is known of its error.

    Attributes:
        seconds: The step; None where the model cannot tell.
        refusal: Why it cannot tell; None where it can.
        fit: The model.
        left_out: Every cell, expected by a model that was fitted without its device.
        at: Where the prediction was asked for.
    """

    seconds: float | None
    refusal: str | None
    fit: Fit
    left_out: tuple[LeftOut, ...]
    at: Observation

    @property
    def median_error(self) -> float:
        """Return the median size of the errors on devices left out."""
        return median(abs(item.error) for item in self.left_out)

    @property
    def range_seconds(self) -> tuple[float, float] | None:
        """Return the step over the smallest and the largest error on devices left out: no confidence interval."""
        if self.seconds is None:
            return None
        errors = [item.error for item in self.left_out]
        return self.seconds / (1 + max(errors)), self.seconds / (1 + min(errors))

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as plain data for `--json`."""
        return {
            "seconds": self.seconds,
            "range_seconds": self.range_seconds,
            "refusal": self.refusal,
            "floor_seconds": self.at.matrix_seconds + self.at.kv_seconds,
            "layer_seconds": self.fit.layer_seconds,
            "bandwidth_share": self.fit.bandwidth_share,
            "kv_times": self.fit.kv_times,
            "left_out_median_error": self.median_error,
            "left_out": [
                {
                    "device": item.observation.device,
                    "model": item.observation.model,
                    "context": item.observation.context_len,
                    "origin": item.observation.origin,
                    "step_seconds": item.observation.step_seconds,
                    "expected_seconds": item.expected_seconds,
                    "error": item.error,
                }
                for item in self.left_out
            ],
        }


def point(spec: ModelSpec, workload: Workload, device: str, bytes_per_second: float) -> Observation:
    """Return where a prediction is asked for.

    Args:
        spec: The model.
        workload: What is decoded.
        device: Name of the device.
        bytes_per_second: Its bandwidth.
    """
    return _observation(spec, workload, device, bytes_per_second, 0.0, "asked")


def observations(runtime: str, summaries: Sequence[CellSummary]) -> list[Observation]:
    """Return the steps of a runtime, as `runtime_label` names it: those of records, and the study's of its own path.

    Where a device is measured here the study's steps of it are left out.
    """
    measured = [
        _observation(
            item.cell.spec,
            item.cell.workload,
            item.device_name,
            item.peak_bytes_per_second or item.ceiling_bytes_per_second.value,
            item.p50_seconds.value,
            "measured",
        )
        for item in summaries
        if _is_wanted(item.cell, runtime)
    ]
    devices = {item.device for item in measured}
    return measured + [item for item in _published(runtime) if item.device not in devices]


def seen_enough(seen: Sequence[Observation]) -> bool:
    """Tell whether a model can be fitted to what was seen, and its error on other devices be known."""
    return len({item.device for item in seen}) >= FEWEST_DEVICES and len(seen) >= FEWEST_CELLS


def predict(seen: Sequence[Observation], at: Observation, runtime: str) -> Prediction:
    """Return the step that a model fitted to what was seen of a runtime expects; see `predict_each`."""
    return predict_each(seen, [at], runtime)[0]


def predict_each(seen: Sequence[Observation], places: Sequence[Observation], runtime: str) -> list[Prediction]:
    """Return the step that one model fitted to what was seen of a runtime expects at each of several places.

    Raises:
        UsageError: Too few devices or steps were seen to fit a model and to know its error.
    """
    if not seen_enough(seen):
        devices = {item.device for item in seen}
        raise UsageError(
            f"cannot tell: {runtime} has steps of {len(seen)} cells on {len(devices)} devices "
            f"({', '.join(sorted(devices)) or 'none'}); {FEWEST_CELLS} on {FEWEST_DEVICES} are needed. "
            "Name a folder with records of more with --records"
        )
    fit, left_out = fit_model(seen), tuple(leave_devices_out(seen))
    refusals = [_beyond(seen, at) for at in places]
    return [
        Prediction(None if refusal else fit.seconds(at), refusal, fit, left_out, at)
        for at, refusal in zip(places, refusals, strict=True)
    ]


def _beyond(seen: Sequence[Observation], at: Observation) -> str | None:
    """Say which quantity lies too far beyond what was seen; None if none does."""
    quantities: dict[str, tuple[str, Callable[[Observation], float]]] = {
        "the floor of the matrices": ("s", lambda item: item.matrix_seconds),
        "the context": ("tokens", lambda item: item.context_len),
        "the layers": ("layers", lambda item: item.layers),
    }
    for name, (unit, read) in quantities.items():
        low, high = min(map(read, seen)) / REACH, max(map(read, seen)) * REACH
        if not low <= read(at) <= high:
            return (
                f"cannot tell: {name}, {read(at):.4g} {unit}, lies beyond {low:.4g} to {high:.4g} {unit}, which is "
                f"{REACH:g} times what was seen either way"
            )
    return None


def _observation(
    spec: ModelSpec, workload: Workload, device: str, bytes_per_second: float, step_seconds: float, origin: str
) -> Observation:
    traffic = step_traffic(spec, workload)
    kv = traffic.kv_read + traffic.kv_write
    return Observation(
        device=device,
        model=spec.name,
        context_len=workload.context_len,
        layers=spec.num_hidden_layers,
        matrix_seconds=(traffic.total_bytes - kv) / bytes_per_second,
        kv_seconds=kv / bytes_per_second,
        step_seconds=step_seconds,
        origin=origin,
    )


def _is_wanted(cell: Cell, runtime: str) -> bool:
    return runtime_label(cell) == runtime and cell.workload.batch == 1


def _published(runtime: str) -> list[Observation]:
    if runtime != PUBLISHED_RUNTIME:
        return []
    spec = load_model(published()["model"])
    return [
        _observation(
            spec,
            Workload.of(cell.context_len),
            cell.device,
            find_device(cell.device).peak_bytes_per_second,
            cell.implied_step_seconds["paper"],
            "published",
        )
        for cell in published_cells()
    ]
