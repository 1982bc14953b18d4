"""Figure 8: the step of each path of weights with its floor, and its speed-up, promised by the bytes and measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memfloor.floor import step_traffic
from memfloor.report.colours import (
    GREY,
    MEASURED_COLOUR,
    PUBLISHED_COLOUR,
    THRESHOLD_COLOUR,
)
from memfloor.report.comparison_figures import log_ratio_axis
from memfloor.report.figures import STYLE, beside, in_lines
from memfloor.report.paper import published
from memfloor.report.weight_ladder import WeightLadder, WeightRow
from memfloor.report.weight_tables import ladder_title, row_title
from memfloor.spec import Workload, load_model
from memfloor.units import MILLI

# The study's Figure 8: its paths, their formats, and the names of their steps in data/paper.toml.
PUBLISHED = (
    ("bf16 (published)", "bf16", "l4_bf16_seconds"),
    ("bnb-nf4 (published)", "nf4", "l4_nf4_seconds"),
    ("AWQ, Marlin (published)", "int4-g128", "l4_awq_marlin_seconds"),
    ("GPTQ, ExLlamaV2 (published)", "int4-g128", "l4_gptq_exllamav2_seconds"),
)
REASON_CHARACTERS = 60
# Room beside the outermost speed-ups, as a factor.
BESIDE = 1.3


@dataclass(frozen=True, slots=True)
class Bar:
    """Hold one row of the figure, in seconds.

    Attributes:
        label: Name of the path.
        step: Its step; None where it was not measured.
        ci95: Of the step.
        floor: The time of its bytes; None where no bandwidth was measured beside it.
        promised: The speed-up that its bytes promise over the first row; None for that row.
        measured: The speed-up measured.
        measured_ci95: Of that.
        reason: Why it has no step.
    """

    label: str
    step: float | None
    ci95: tuple[float, float] | None = None
    floor: float | None = None
    promised: float | None = None
    measured: float | None = None
    measured_ci95: tuple[float, float] | None = None
    reason: str = ""


def weight_paths(ladders: Sequence[WeightLadder]) -> Figure:
    """Draw Figure 8: of each ladder steps with floors, left, and promised beside measured speed-ups, right.

    The study's published steps stand below as a reference that was not measured here.
    """
    panels = [(ladder_title(ladder), list(map(_bar, ladder.rows)), MEASURED_COLOUR) for ladder in ladders]
    panels.append((f"L4, {published()['model']}: published, not measured here", published_bars(), PUBLISHED_COLOUR))
    heights = [len(bars) + 1.5 for _, bars, _ in panels]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.4 + 0.36 * sum(heights)), layout="constrained")
        rows = figure.subplots(len(panels), 2, squeeze=False, height_ratios=heights)
        for (left, right), (title, bars, colour) in zip(rows, panels, strict=True):
            _draw_steps(left, bars, colour)
            _draw_speedups(right, bars, colour)
            left.set_title(title, loc="left", fontsize=9)
        rows[-1][0].set_xlabel("step, ms (orange: floor at the paired ceiling)", fontsize=9)
        rows[-1][1].set_xlabel("speed-up (diamond: promised by the bytes)", fontsize=9)
    return figure


def published_bars() -> list[Bar]:
    """Return the study's paths: its steps, and what their bytes promise."""
    steps, context = published()["steps"], published()["context_len"]
    spec = load_model(published()["model"])
    sizes = [step_traffic(spec, Workload.of(context, weights=name)).total_bytes for _, name, _ in PUBLISHED]
    seconds = [steps[key] for _, _, key in PUBLISHED]
    first, *others = (
        Bar(label, step, promised=sizes[0] / size, measured=seconds[0] / step)
        for (label, _, _), step, size in zip(PUBLISHED, seconds, sizes, strict=True)
    )
    return [Bar(first.label, first.step), *others]


def _bar(row: WeightRow) -> Bar:
    summary, ratio = row.summary, row.compared.ratio if row.compared else None
    label = row_title(row)
    promised = row.saving.promised if row.saving else None
    if summary is None:
        return Bar(label, None, promised=promised, reason=row.lost or "no run")
    step = summary.p50_seconds
    return Bar(
        label,
        step.value,
        ci95=step.ci95,
        floor=summary.fractions["streamed"].ceiling.value * step.value,
        promised=promised,
        measured=ratio.value if ratio else None,
        measured_ci95=ratio.ci95 if ratio else None,
    )


def _draw_steps(axes: Axes, bars: Sequence[Bar], colour: str) -> None:
    for place, bar in enumerate(bars):
        if bar.step is None:
            beside(axes, 0.0, place, bar.reason[:REASON_CHARACTERS], 7)
            continue
        axes.barh(place, bar.step / MILLI, color=colour)
        if bar.ci95:
            axes.plot([end / MILLI for end in bar.ci95], [place, place], color="black", linewidth=1.2)
        if bar.floor is not None:
            axes.plot([bar.floor / MILLI] * 2, [place - 0.4, place + 0.4], color=THRESHOLD_COLOUR, linewidth=2)
        beside(axes, max((bar.step, *(bar.ci95 or ()))) / MILLI, place, f"{bar.step / MILLI:.4g}", 8)
    axes.set_yticks(range(len(bars)), [in_lines(bar.label) for bar in bars], fontsize=7)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.margins(x=0.15)


def _draw_speedups(axes: Axes, bars: Sequence[Bar], colour: str) -> None:
    axes.axvline(1.0, color="black", linewidth=0.8)
    for place, bar in enumerate(bars):
        if bar.promised is None:
            continue
        if bar.measured is not None:
            axes.plot([bar.promised, bar.measured], [place, place], color=GREY, linewidth=1, linestyle=":")
            axes.plot(bar.measured, place, "s", color=colour, markersize=6)
        if bar.measured_ci95:
            axes.plot(bar.measured_ci95, [place, place], color=colour, linewidth=2)
        axes.plot(bar.promised, place, "D", color=THRESHOLD_COLOUR, markersize=6, fillstyle="none")
    axes.set_yticks(range(len(bars)), [""] * len(bars))
    axes.set_ylim(len(bars) - 0.4, -0.6)
    # An interval over few blocks may be so wide that nothing else could be told apart.
    points = [1.0, *(value for bar in bars for value in (bar.promised, bar.measured) if value is not None)]
    axes.set_xlim(min(points) / BESIDE, max(points) * BESIDE)
    log_ratio_axis(axes, "x")
