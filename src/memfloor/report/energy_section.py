"""Energy as text for the terminal and as a part of the page."""

from memfloor.report.by_cell import InvalidCell
from memfloor.report.energy import Energies, EnergySummary
from memfloor.report.energy_cautions import energy_cautions
from memfloor.report.tables import runtime_label, workload_text
from memfloor.report.templates import template
from memfloor.stats import BlockMean
from memfloor.units import format_seconds

ENERGY_COLUMNS = (
    "model",
    "runtime",
    "context",
    "J/token",
    "95 % CI",
    "above idle",
    "95 % CI",
    "tokens/J",
    "above idle",
    "watts",
    "idle",
    "runs",
    "device and sensor",
)
# Characters that all columns take, and what fits a narrow terminal, by place.
WIDE_TABLE = 190
NARROW = (0, 1, 3, 5, 9, 10)


def energy_row(summary: EnergySummary) -> list[str]:
    """Return the row of a cell; a missing figure is a dash, never a zero."""
    total, above, per_joule = summary.joules_per_token, summary.joules_per_token_above_idle, summary.tokens_per_joule
    per_joule_above = summary.tokens_per_joule_above_idle
    return [
        summary.cell.spec.name,
        runtime_label(summary.cell),
        workload_text(summary.cell),
        f"{total.value:.4g}",
        _interval(total),
        f"{above.value:.4g}",
        _interval(above),
        f"{per_joule.value:.4g}",
        f"{per_joule_above.value:.4g}" if per_joule_above else "-",
        f"{summary.watts.value:.4g}",
        f"{summary.idle_watts.value:.4g}",
        str(len(summary.runs)),
        f"{summary.device_name}, {summary.sensor.name}",
    ]


def without_row(cell: InvalidCell) -> list[str]:
    """Return the row of a cell without energy: its reason stands in place of every figure."""
    return [cell.cell.spec.name, runtime_label(cell.cell), workload_text(cell.cell), f"not measured: {cell.reason}"]


def sensor_sentences(found: Energies) -> list[str]:
    """Return a sentence for each device about who measured its energy, and how."""
    said = [_sensor_sentence(summary) for summary in found.summaries]
    return list(dict.fromkeys(said))


def energy_section(found: Energies) -> str:
    """Return the section of the page as HTML; nothing where no energy was asked for."""
    if not found.summaries and not found.without:
        return ""
    return template("energy").render(
        columns=ENERGY_COLUMNS,
        rows=map(energy_row, found.summaries),
        lost=map(without_row, found.without),
        sentences=[*sensor_sentences(found), *depth_sentences(found)],
        cautions=energy_cautions(found.summaries),
    )


def depth_sentences(found: Energies) -> list[str]:
    """Return a sentence for each cell about its windows, and the depths that their steps found."""
    return [_depth_sentence(summary) for summary in found.summaries]


def _sensor_sentence(summary: EnergySummary) -> str:
    sensor = summary.sensor
    what = "an energy counter" if sensor.quantity == "joules" else "power, integrated over its readings"
    how = {"measured": "moved at least every", "documented": "averages over up to"}[sensor.period_source]
    return (
        f"{summary.device.name}: {sensor.name}, {what}, of {sensor.covers}; it {how} "
        f"{format_seconds(sensor.period_seconds)}."
    )


def _depth_sentence(summary: EnergySummary) -> str:
    (low, high), cell = summary.depths, summary.cell
    return (
        f"{cell.spec.name} {runtime_label(cell)} at context {workload_text(cell)}: steps of "
        f"{format_seconds(summary.step_seconds.value)} on average, in windows of {summary.window_seconds:.3g} s, found "
        f"{low} to {high} tokens in the KV cache."
    )


def _interval(mean: BlockMean) -> str:
    return f"[{mean.ci95[0]:.4g}, {mean.ci95[1]:.4g}]" if mean.ci95 else "-"
