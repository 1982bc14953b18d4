"""The figures of comparisons: a forest plot, speed-up by context, and both arms run by run beside samples of three."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from memfloor.record import Run
from memfloor.report.colours import (
    BASELINE_COLOUR,
    CANDIDATE_COLOUR,
    LINE_COLOURS,
    MEASURED_COLOUR,
    PUBLISHED_COLOUR,
    THRESHOLD_COLOUR,
    first_word,
    verdict_colour,
)
from memfloor.report.compared import Compared
from memfloor.report.comparison_tables import AFTERWARDS, arms_text, ratio_interval
from memfloor.report.figures import STYLE
from memfloor.report.paper import published
from memfloor.report.tables import workload_text
from memfloor.stats import Ratio, block_samples, coefficient_of_variation, verdict

DODGE = 1.02
# Of the slowest run: what Figure 6 shows of its steps.
TOP = 1.25
FINE_TICKS = (0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.3, 1.5)
COARSE_TICKS = (0.1, 0.2, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50)
SMALL_SAMPLE = 3
SAMPLES = 500


def forest(compared: Sequence[Compared]) -> Figure:
    """Draw every comparison as a row: its ratio and interval in the colour of its verdict, and its null threshold."""
    drawn = _with_ratio(compared)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 1.4 + 0.4 * len(drawn)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(1.0, color="black", linewidth=0.8)
        for row, (item, ratio) in enumerate(drawn):
            colour = verdict_colour(item.verdict)
            # What lies inside counts as equivalent.
            axes.barh(row, item.margin + item.margin / (1 + item.margin), left=1 / (1 + item.margin), color="#EEEEEE")
            if ratio.ci95:
                axes.plot(ratio.ci95, [row, row], color=colour, linewidth=2)
            axes.plot(ratio.value, row, "s", color=colour, markersize=6)
            if item.comparison and item.comparison.expect_null_below:
                axes.plot(
                    [item.comparison.expect_null_below] * 2,
                    [row - 0.4, row + 0.4],
                    color=THRESHOLD_COLOUR,
                    linestyle=":",
                )
            axes.text(
                1.01, row, _forest_text(item, ratio), transform=axes.get_yaxis_transform(), va="center", fontsize=8
            )
        axes.set_yticks(range(len(drawn)), [f"{arms_text(item)}, {workload_text(item.baseline)}" for item, _ in drawn])
        axes.invert_yaxis()
        log_ratio_axis(axes, "x")
        axes.set_xlabel("baseline time over candidate time; grey: the margin; dotted: the null's threshold")
    return figure


def speedups(compared: Sequence[Compared]) -> Figure:
    """Draw Figure 5: speed-up by context, a line for each pair of arms, batch size and device, with intervals.

    The study's published points stand in grey as a reference that was not measured here.
    """
    lines: dict[str, list[tuple[int, Ratio]]] = defaultdict(list)
    for item, ratio in _with_ratio(compared):
        # An arm against itself has no speed-up to show.
        if not item.baseline.arm:
            lines[_line_label(item)].append((item.baseline.workload.context_len, ratio))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 5), layout="constrained")
        axes = figure.subplots()
        axes.axhline(1.0, color="black", linewidth=0.8)
        for index, (label, points) in enumerate(lines.items()):
            _draw_line(axes, sorted(points, key=lambda point: point[0]), label, index)
        _draw_published(axes)
        contexts = sorted(
            {context for points in lines.values() for context, _ in points} | {published()["context_len"]}
        )
        axes.set_xscale("log", base=2)
        axes.set_xticks(contexts, list(map(str, contexts)))
        log_ratio_axis(axes, "y")
        axes.set_xlabel("context, tokens")
        axes.set_ylabel("baseline time over candidate time")
        figure.legend(loc="outside lower center", fontsize=8)
    return figure


def sessions(compared: Sequence[Compared]) -> Figure:
    """Draw Figure 6: the steps of both arms run by run, and what samples of three blocks would have said instead."""
    drawn = _with_ratio(compared)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3 * len(drawn)), layout="constrained")
        for (left, right), (item, ratio) in zip(figure.subplots(len(drawn), 2, squeeze=False), drawn, strict=True):
            _draw_runs(left, item)
            _draw_samples(right, item, ratio)
    return figure


COMPARISON_FIGURES: dict[str, Callable[[Sequence[Compared]], Figure]] = {
    "5": speedups,
    "6": sessions,
    "forest": forest,
}


def small_sample_ratios(compared: Compared) -> list[Ratio]:
    """Return the ratios that samples of three of the comparison's blocks would have given; none below four blocks."""
    if len(compared.blocks) <= SMALL_SAMPLE:
        return []
    return [compared.ratio_of(sample) for sample in block_samples(compared.blocks, SMALL_SAMPLE, SAMPLES)]


def _with_ratio(compared: Sequence[Compared]) -> list[tuple[Compared, Ratio]]:
    return [(item, item.ratio) for item in compared if item.ratio]


def _forest_text(item: Compared, ratio: Ratio) -> str:
    return f"{ratio.value:.3f} {ratio_interval(ratio)} {first_word(item.verdict)}, {item.isolation}"


def _line_label(item: Compared) -> str:
    device = item.baseline_runs[0].environment.device.name
    afterwards = "" if item.comparison else f" ({AFTERWARDS})"
    return f"{arms_text(item)}, batch {item.baseline.workload.batch}, {device}{afterwards}"


def _draw_line(axes: Axes, points: Sequence[tuple[int, Ratio]], label: str, index: int) -> None:
    # Side by side, so that intervals at one context do not hide each other.
    shift, colour = DODGE ** (index + 1), LINE_COLOURS[index % len(LINE_COLOURS)]
    contexts = [context * shift for context, _ in points]
    axes.plot(contexts, [ratio.value for _, ratio in points], "o-", color=colour, label=label, markersize=5)
    for context, (_, ratio) in zip(contexts, points, strict=True):
        if ratio.ci95:
            axes.plot([context, context], ratio.ci95, color=colour, linewidth=1.6)


def _draw_published(axes: Axes) -> None:
    context, graphs = published()["context_len"], published()["graphs"]
    axes.plot([context, context], graphs["h100_ci95"], color=PUBLISHED_COLOUR, linewidth=1.6)
    for name, marker in (("h100", "D"), ("l4", "v")):
        label = f"{name.upper()}, one CUDA Graph over eager (published)"
        axes.plot(context, graphs[f"{name}_speedup"], marker, color=PUBLISHED_COLOUR, label=label, linestyle="none")


def _draw_runs(axes: Axes, item: Compared) -> None:
    arms = (
        ("baseline", item.baseline_runs, BASELINE_COLOUR, -0.17),
        ("candidate", item.candidate_runs, CANDIDATE_COLOUR, 0.17),
    )
    said = []
    for name, runs, colour, shift in arms:
        for run in runs:
            place = run.block + 1 + shift
            milliseconds = [1e3 * seconds for seconds in run.step_seconds]
            axes.plot([place] * len(milliseconds), milliseconds, ".", color=colour, markersize=3, alpha=0.35)
            axes.hlines(1e3 * run.p50_seconds, place - 0.15, place + 0.15, color=colour, linewidth=2)
        said.append(f"{name} {_spread(runs)}")
    # A few steps that waited for others must not flatten the rest.
    top = TOP * max(run.p50_seconds for _, runs, _, _ in arms for run in runs)
    beyond = sum(seconds > top for _, runs, _, _ in arms for run in runs for seconds in run.step_seconds)
    axes.set_ylim(0, 1e3 * top)
    axes.set_xlabel(f"block (orange: baseline, blue: candidate; {beyond} steps lie above)")
    axes.set_ylabel("step, ms")
    title = f"{arms_text(item)}, {workload_text(item.baseline)}"
    axes.set_title(f"{title}\n{', '.join(said)}", loc="left", fontsize=9)


def _spread(runs: Sequence[Run]) -> str:
    spread = coefficient_of_variation(runs, lambda run: run.p50_seconds)
    middle = 1e3 * median(run.p50_seconds for run in runs)
    return f"{middle:.4g} ms" + ("" if spread is None else f", CV {spread:.1%}")


def _draw_samples(axes: Axes, item: Compared, ratio: Ratio) -> None:
    ratios = small_sample_ratios(item)
    if not ratios:
        axes.set_axis_off()
        axes.text(0, 0.5, f"{len(item.blocks)} blocks: too few to draw samples of {SMALL_SAMPLE} from", fontsize=9)
        return
    whole = verdict(ratio, item.margin)
    other = sum(verdict(sample, item.margin) != whole for sample in ratios) / len(ratios)
    axes.hist([sample.value for sample in ratios], bins=20, color=PUBLISHED_COLOUR)
    if ratio.ci95:
        axes.axvspan(*ratio.ci95, color=MEASURED_COLOUR, alpha=0.2)
    axes.axvline(ratio.value, color=MEASURED_COLOUR, linewidth=2)
    axes.set_xlabel(f"ratio by {SMALL_SAMPLE} blocks (blue: by all {len(item.blocks)}, with its interval)")
    axes.set_ylabel("samples")
    afterwards = "" if item.comparison else f"\n{AFTERWARDS}"
    axes.set_title(
        f"{other:.0%} of {len(ratios)} samples of {SMALL_SAMPLE} say something else than {whole}{afterwards}",
        loc="left",
        fontsize=9,
    )


def log_ratio_axis(axes: Axes, which: str) -> None:
    """Make an axis of ratios logarithmic, with ticks at round ratios."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log"})
    low, high = axis.get_view_interval()
    ticks = [tick for tick in (COARSE_TICKS if high / low > 1.7 else FINE_TICKS) if low <= tick <= high]
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(NullFormatter())
    axis.set_ticks(ticks or [1], [f"{tick:g}" for tick in ticks or [1]])
