"""The figures of anatomies: the kernels of one decoder block, their places in time, and the whole step by owner."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memfloor.record import Anatomy
from memfloor.report.block import Part, block_parts, same_blocks
from memfloor.report.colours import FLOOR_COLOUR, IDLE_COLOUR, ROLE_COLOURS, TERM_COLOURS, UNEXPLAINED_COLOUR
from memfloor.report.figures import STYLE, beside
from memfloor.report.ledger import Ledger, make_ledgers
from memfloor.report.paper import published
from memfloor.report.tables import runtime_label, workload_text
from memfloor.report.timeline import bars, middle_block, slowest_first, typical_step
from memfloor.units import MILLI, format_bandwidth, format_bytes, format_seconds

MICRO = 1e-6
SMALL = 8
COMPUTE_COLOUR = "#C8CCD2"
# Bars shorter than this part of what is drawn have no outline.
SEAM = 0.005


def block_sequence(anatomies: Sequence[Anatomy]) -> Figure:
    """Draw Figure 2: the kernels of the middle decoder block in order, with bytes, time and achieved bandwidth.

    Kernels in a row that belong to one module and role are one bar; cells that run the same are one panel.
    """
    drawn = _drawn(anatomies)
    title = _titles(drawn)
    panels = sorted(same_blocks(drawn), key=lambda panel: -len(block_parts(panel[0])))
    columns = min(2, len(panels))
    grid = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    with mpl.rc_context(STYLE):
        heights = [1.0 + 0.2 * len(block_parts(row[0][0])) for row in grid]
        figure = Figure(figsize=(10, sum(heights)), layout="constrained")
        every = figure.subplots(len(grid), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
        for axes in every.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(every.flat, panels, strict=False):
            _draw_parts(axes, block_parts(panel[0]))
            names = [title(panel[0]), *(f"the same kernels: {runtime_label(anatomy.cell)}" for anatomy in panel[1:])]
            axes.set_title("\n".join(names), loc="left", fontsize=SMALL + 1)
        _role_legend(figure)
    return figure


def block_gantt(anatomies: Sequence[Anatomy]) -> Figure:
    """Draw Figure 3: when each kernel of the middle decoder block ran, those that overlap below each other."""
    drawn = _drawn(anatomies)
    title = _titles(drawn)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.6 + 1.15 * len(drawn)), layout="constrained")
        every = figure.subplots(len(drawn), 1, squeeze=False)[:, 0]
        for axes, anatomy in zip(every, drawn, strict=True):
            _draw_block(axes, anatomy, title(anatomy))
        every[-1].set_xlabel("us since the block's first kernel", fontsize=SMALL)
        _role_legend(figure)
    return figure


def step_anatomy(anatomies: Sequence[Anatomy]) -> Figure:
    """Draw Figure 4: the ledger of each cell by owner, from the floor to the timed step; in time, and as parts.

    Where the study's own cell is among them, its published anatomy stands below, which was not measured here.
    """
    ledgers = slowest_first(make_ledgers(anatomies))
    drawn = [ledger.typical for ledger in ledgers]
    title = _titles(drawn)
    bars_drawn = [_stack(ledger, title(ledger.typical)) for ledger in ledgers]
    bars_drawn += [_published_stack()] * any(map(_is_published, drawn))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 1.6 + 0.36 * len(bars_drawn)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for row, stack in enumerate(bars_drawn):
            _draw_stack(left, row, stack, MILLI)
            beside(left, stack.step_seconds / MILLI, row, f"{stack.step_seconds / MILLI:.4g}", SMALL)
            _draw_stack(right, row, stack, stack.step_seconds / 100)
        left.set_yticks(range(len(bars_drawn)), [stack.label for stack in bars_drawn], fontsize=SMALL)
        left.set_ylim(len(bars_drawn) - 0.4, -0.6)
        left.set_xlim(0, 1.2 * max(stack.step_seconds for stack in bars_drawn) / MILLI)
        left.set_xlabel("ms a step; black: the timed step")
        right.set_xlabel("% of the timed step")
        handles, names = left.get_legend_handles_labels()
        unique = dict(zip(names, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=5, fontsize=SMALL)
    return figure


ANATOMY_FIGURES: dict[str, Callable[[Sequence[Anatomy]], Figure]] = {
    "2": block_sequence,
    "3": block_gantt,
    "4": step_anatomy,
}


def _draw_parts(axes: Axes, parts: Sequence[Part]) -> None:
    times = [part.seconds / MICRO for part in parts]
    axes.barh(range(len(parts)), times, color=[ROLE_COLOURS[part.role] for part in parts])
    for row, (part, time) in enumerate(zip(parts, times, strict=True)):
        beside(axes, time, row, _part_text(part), SMALL)
    axes.set_yticks(range(len(parts)), [part.label for part in parts], fontsize=SMALL)
    axes.invert_yaxis()
    # Room for the text beside the longest bar.
    axes.set_xlim(0, 2.3 * max(times))
    axes.set_xlabel("us", fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)


def _draw_block(axes: Axes, anatomy: Anatomy, name: str) -> None:
    step, block = typical_step(anatomy.trace), middle_block(anatomy)
    drawn = bars(block, step)
    begin, end = drawn[0].start_seconds, max(bar.end_seconds for bar in drawn)
    for bar in drawn:
        span = ((bar.start_seconds - begin) / MICRO, bar.seconds / MICRO)
        # A seam between neighbours, where it would not hide the bar.
        seam = 0.6 if bar.seconds > SEAM * (end - begin) else 0.0
        colour = ROLE_COLOURS[bar.kernel.role]
        axes.broken_barh([span], (bar.row, 0.9), facecolors=colour, edgecolors="white", linewidth=seam)
    rows = 1 + max(bar.row for bar in drawn)
    axes.set_ylim(rows, -0.1)
    axes.set_xlim(0, (end - begin) / MICRO)
    axes.set_yticks([])
    title = f"{name}: {len(block)} kernels in {format_seconds(end - begin)}, traced"
    axes.set_title(title, loc="left", fontsize=SMALL + 1)
    axes.tick_params(labelsize=SMALL)


@dataclass(frozen=True, slots=True)
class _Stack:
    """Hold a bar of Figure 4: its pieces in seconds by name and colour, and the step they belong to."""

    label: str
    pieces: Sequence[tuple[str, float, str]]
    step_seconds: float
    hatch: str = ""


def _stack(ledger: Ledger, label: str) -> _Stack:
    colours = {"floor": FLOOR_COLOUR, **TERM_COLOURS, "unexplained": UNEXPLAINED_COLOUR}
    pieces = [(name, line.value, colours[name]) for name, line in ledger.lines.items()]
    return _Stack(label, pieces, ledger.step_seconds.value)


def _published_stack() -> _Stack:
    parts = published()["anatomy"]
    pieces = [
        ("compute (published)", parts["compute_seconds"], COMPUTE_COLOUR),
        ("launch (published)", parts["launch_seconds"], IDLE_COLOUR),
    ]
    label = f"the study, H100 {published()['context_len']} (published)"
    return _Stack(label, pieces, sum(seconds for _, seconds, _ in pieces), hatch="///")


def _is_published(anatomy: Anatomy) -> bool:
    cell, study = anatomy.cell, published()
    return (cell.spec.name, cell.workload.context_len) == (study["model"], study["context_len"])


def _draw_stack(axes: Axes, row: int, stack: _Stack, unit_seconds: float) -> None:
    left = 0.0
    for name, seconds, colour in stack.pieces:
        # Kernels may beat the ceiling: what is below zero is not drawn, and is in the table.
        width = max(0.0, seconds / unit_seconds)
        axes.barh(
            row, width, left=left, color=colour, edgecolor="white", linewidth=0.3, label=name, hatch=stack.hatch or None
        )
        left += width
    axes.plot([stack.step_seconds / unit_seconds] * 2, [row - 0.45, row + 0.45], color="black", linewidth=1.6)


def _drawn(anatomies: Sequence[Anatomy]) -> list[Anatomy]:
    return [ledger.typical for ledger in slowest_first(make_ledgers(anatomies))]


def _part_text(part: Part) -> str:
    time = f"{part.seconds / MICRO:.3g}"
    if not part.read_bytes or not part.seconds:
        return time
    return f"{time}, {format_bytes(part.read_bytes)}, {format_bandwidth(part.read_bytes / part.seconds)}"


def _titles(drawn: Sequence[Anatomy]) -> Callable[[Anatomy], str]:
    """Return what names an anatomy; its device is named where they were taken on several."""
    several = len({anatomy.environment.device.name for anatomy in drawn}) > 1

    def title(anatomy: Anatomy) -> str:
        cell = anatomy.cell
        device = f", {anatomy.environment.device.name}" if several else ""
        return f"{cell.spec.name} {runtime_label(cell)} {workload_text(cell)}{device}"

    return title


def _role_legend(figure: Figure) -> None:
    handles = [mpl.patches.Patch(color=colour, label=role) for role, colour in ROLE_COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=SMALL)
