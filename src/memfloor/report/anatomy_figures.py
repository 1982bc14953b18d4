"""The figures of anatomies: the kernels of one decoder block, their places in time, and the whole step by owner."""

from collections.abc import Callable, Sequence
from statistics import median

import matplotlib as mpl
from matplotlib.figure import Figure

from memfloor.record import Anatomy, Role, TracedKernel
from memfloor.report.figures import STYLE
from memfloor.report.ledger import Ledger, make_ledgers
from memfloor.report.tables import runtime_label
from memfloor.units import format_bandwidth, format_bytes

# Okabe and Ito's palette, told apart by every reader.
ROLE_COLOURS: dict[Role, str] = {
    "weights": "#0072B2",
    "attention": "#009E73",
    "cache": "#CC79A7",
    "elementwise": "#E69F00",
    "sampling": "#56B4E9",
}
FLOOR_COLOUR, IDLE_COLOUR, UNEXPLAINED_COLOUR = "#8A8F98", "#D55E00", "#FFFFFF"
TERM_COLOURS = (*ROLE_COLOURS.values(), IDLE_COLOUR)


def block_sequence(anatomies: Sequence[Anatomy]) -> Figure:
    """Draw Figure 2: the kernels of the middle decoder block in order, with bytes, time and achieved bandwidth."""
    drawn = _first_of_each(anatomies)
    kernels = [middle_block(anatomy) for anatomy in drawn]
    with mpl.rc_context(STYLE):
        heights = [1.5 + 0.2 * len(block) for block in kernels]
        figure = Figure(figsize=(10, sum(heights)), layout="constrained")
        every = figure.subplots(len(drawn), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for axes, anatomy, block in zip(every, drawn, kernels, strict=True):
            times = [1e6 * median(kernel.seconds) for kernel in block]
            axes.barh(range(len(block)), times, color=[ROLE_COLOURS[kernel.role] for kernel in block])
            for row, (kernel, time) in enumerate(zip(block, times, strict=True)):
                axes.text(time, row, f"  {_kernel_text(kernel)}", va="center", fontsize=7)
            axes.set_yticks(range(len(block)), [_kernel_name(kernel) for kernel in block], fontsize=7)
            axes.invert_yaxis()
            axes.margins(x=0.25)
            axes.set_xlabel("kernel time, us")
            axes.set_title(_title(anatomy), loc="left", fontsize=10)
    return figure


def block_gantt(anatomies: Sequence[Anatomy]) -> Figure:
    """Draw Figure 3: when each kernel of the middle decoder block ran, in the first traced step."""
    drawn = _first_of_each(anatomies)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 1 + 1.5 * len(drawn)), layout="constrained")
        for axes, anatomy in zip(figure.subplots(len(drawn), 1, squeeze=False)[:, 0], drawn, strict=True):
            block = middle_block(anatomy)
            begin = block[0].start_seconds[0]
            for row, kernel in enumerate(block):
                bar = [(1e6 * (kernel.start_seconds[0] - begin), 1e6 * kernel.seconds[0])]
                # Two rows, as kernels may overlap.
                axes.broken_barh(bar, (row % 2, 0.9), facecolors=ROLE_COLOURS[kernel.role])
            axes.set_yticks([])
            axes.set_xlabel("us")
            axes.set_title(f"{_title(anatomy)}: {len(block)} kernels, traced", loc="left", fontsize=10)
        _role_legend(figure)
    return figure


def step_anatomy(anatomies: Sequence[Anatomy]) -> Figure:
    """Draw Figure 4: the step of each cell by owner, from the floor to the timed step."""
    ledgers = make_ledgers(anatomies)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 1.6 + 0.6 * len(ledgers)), layout="constrained")
        axes = figure.subplots()
        for row, ledger in enumerate(ledgers):
            left = 0.0
            for seconds, colour, name in _pieces(ledger):
                # Kernels may beat the ceiling: what is below zero is not drawn, and is in the table.
                width = max(0.0, 1e3 * seconds)
                axes.barh(row, width, left=left, color=colour, edgecolor="#444444", linewidth=0.4, label=name)
                left += width
            axes.plot([1e3 * ledger.step_seconds.value] * 2, [row - 0.45, row + 0.45], color="black", linewidth=2)
        axes.set_yticks(range(len(ledgers)), [_title(ledger.anatomies[0]) for ledger in ledgers])
        axes.invert_yaxis()
        axes.set_xlabel("ms; black: the timed step")
        handles, names = axes.get_legend_handles_labels()
        unique = dict(zip(names, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def middle_block(anatomy: Anatomy) -> list[TracedKernel]:
    """Return the kernels of the middle decoder layer, or all of them where no kernel's layer is known."""
    kernels = anatomy.trace.kernels
    block = [kernel for kernel in kernels if kernel.layer == anatomy.cell.spec.num_hidden_layers // 2]
    return block or list(kernels)


ANATOMY_FIGURES: dict[str, Callable[[Sequence[Anatomy]], Figure]] = {
    "2": block_sequence,
    "3": block_gantt,
    "4": step_anatomy,
}


def _pieces(ledger: Ledger) -> list[tuple[float, str, str]]:
    terms = zip(ledger.terms, TERM_COLOURS, strict=True)
    return [
        (ledger.floor_seconds.value, FLOOR_COLOUR, "floor"),
        *((term.seconds.value, colour, term.name) for term, colour in terms),
        (ledger.unexplained_seconds.value, UNEXPLAINED_COLOUR, "unexplained"),
    ]


def _first_of_each(anatomies: Sequence[Anatomy]) -> list[Anatomy]:
    first: dict[str, Anatomy] = {}
    for anatomy in anatomies:
        if anatomy.trace.labelled != "names":
            first.setdefault(anatomy.cell.key, anatomy)
    return list(first.values()) or list(anatomies[:1])


def _kernel_name(kernel: TracedKernel) -> str:
    module = kernel.scope.rpartition(".")[2]
    return kernel.op if module in ("", kernel.op) else f"{module}: {kernel.op.removeprefix('aten::')}"


def _kernel_text(kernel: TracedKernel) -> str:
    seconds = median(kernel.seconds)
    if not kernel.read_bytes or not seconds:
        return f"{1e6 * seconds:.3g}"
    bandwidth = format_bandwidth(kernel.read_bytes / seconds)
    return f"{1e6 * seconds:.3g}, {format_bytes(kernel.read_bytes)}, {bandwidth}"


def _title(anatomy: Anatomy) -> str:
    cell = anatomy.cell
    return f"{cell.spec.name} {runtime_label(cell)} {cell.workload.context_len}"


def _role_legend(figure: Figure) -> None:
    handles = [mpl.patches.Patch(color=colour, label=role) for role, colour in ROLE_COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
