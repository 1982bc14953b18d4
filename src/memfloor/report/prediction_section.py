"""The part of the page that says how well steps on one device are expected from the others, and what elsewhere is."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from memfloor.hardware import catalogue
from memfloor.record import Cell
from memfloor.report.prediction import Prediction, observations, point, predict_each, seen_enough
from memfloor.report.step_model import Observation
from memfloor.report.summary import CellSummary
from memfloor.report.tables import runtime_label
from memfloor.report.templates import template
from memfloor.units import format_percent, format_seconds

LEFT_OUT_COLUMNS = ("cell", "step by", "step", "expected without its device", "error")
ELSEWHERE_COLUMNS = ("device", "floor", "step", "by the errors on devices left out")
# A model is fitted for each device left out, which takes a second for a runtime of many.
MOST_RUNTIMES = 4


@dataclass(frozen=True, slots=True)
class Predicted:
    """Hold what the page says of one runtime.

    Attributes:
        runtime: As tables name it.
        cell: The cell that most devices share.
        within: The prediction of a step that was seen, for the model and its errors.
        elsewhere: That cell on each device of the catalogue that no step of the runtime is of.
    """

    runtime: str
    cell: Cell
    within: Prediction
    elsewhere: tuple[Prediction, ...]


def prediction_section(summaries: Sequence[CellSummary]) -> str:
    """Return the part of the page about predictions; nothing where no runtime was seen on enough devices."""
    found = predictions_of(summaries)
    if not found:
        return ""
    return template("prediction").render(
        left_out_columns=LEFT_OUT_COLUMNS,
        elsewhere_columns=ELSEWHERE_COLUMNS,
        runtimes=[
            {
                "name": item.runtime,
                "rows": left_out_rows(item.within),
                "model": model_sentence(item.within),
                "cell": f"{item.cell.spec.name} at {item.cell.workload.context_len} tokens",
                "elsewhere": list(map(_elsewhere_row, item.elsewhere)),
            }
            for item in found
        ],
    )


def predictions_of(summaries: Sequence[CellSummary]) -> list[Predicted]:
    """Return the runtimes that were seen on most devices, and what is expected of them elsewhere."""
    cells: dict[str, list[CellSummary]] = defaultdict(list)
    for item in summaries:
        if item.cell.workload.batch == 1:
            cells[runtime_label(item.cell)].append(item)
    seen = {label: observations(label, alone) for label, alone in cells.items()}
    # The study's steps serve a model, and are no reason for one.
    enough = [label for label in cells if seen_enough([at for at in seen[label] if at.origin == "measured"])]
    widest = sorted(enough, key=lambda label: -len({item.device for item in seen[label]}))[:MOST_RUNTIMES]
    return [_predicted(label, seen[label], cells[label]) for label in widest]


def left_out_rows(result: Prediction) -> list[list[str]]:
    """Return a row for each cell: what it took, and what a model that does not know its device expects."""
    return [
        [
            f"{item.observation.device}, {item.observation.model} {item.observation.context_len}",
            item.observation.origin,
            format_seconds(item.observation.step_seconds),
            format_seconds(item.expected_seconds),
            f"{100 * item.error:+.1f} %",
        ]
        for item in result.left_out
    ]


def model_sentence(result: Prediction) -> str:
    """Return the median error and the three numbers of a model, in words."""
    fit = result.fit
    return (
        f"Median error on a device left out: {format_percent(result.median_error)}. The model: "
        f"{format_seconds(fit.layer_seconds)} a layer, matrices at {format_percent(fit.bandwidth_share)} of the "
        f"bandwidth, keys and values {fit.kv_times:.3g} times as long as at all of it."
    )


def _predicted(label: str, seen: Sequence[Observation], alone: Sequence[CellSummary]) -> Predicted:
    # What is expected elsewhere can be set beside what was seen.
    cell = _most_shared(alone)
    known = {item.device for item in seen}
    places = [
        point(cell.spec, cell.workload, name, device.peak_bytes_per_second)
        for name, device in catalogue().items()
        if name not in known
    ]
    within, *elsewhere = predict_each(seen, [seen[0], *places], label)
    return Predicted(label, cell, within, tuple(elsewhere))


def _most_shared(alone: Sequence[CellSummary]) -> Cell:
    devices: dict[tuple[str, int], set[str]] = defaultdict(set)
    for item in alone:
        devices[item.cell.spec.name, item.cell.workload.context_len].add(item.device_name)
    best = max(alone, key=lambda item: len(devices[item.cell.spec.name, item.cell.workload.context_len]))
    return best.cell


def _elsewhere_row(result: Prediction) -> list[str]:
    floor = format_seconds(result.at.matrix_seconds + result.at.kv_seconds)
    if result.seconds is None or result.range_seconds is None:
        return [result.at.device, floor, "cannot tell", str(result.refusal).removeprefix("cannot tell: ")]
    return [
        result.at.device,
        floor,
        format_seconds(result.seconds),
        " to ".join(map(format_seconds, result.range_seconds)),
    ]
