"""A traced step as a Gantt chart: every kernel of one decoder block, or of the whole step, where it ran."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from memfloor.record import Anatomy, Role, StepTrace, TracedKernel
from memfloor.report.colours import IDLE_COLOUR, ROLE_COLOURS
from memfloor.report.interactive import Chart, View, plain, wrapped
from memfloor.report.timeline import Bar, bars, knows_layers, middle_block, typical_step
from memfloor.units import format_bandwidth, format_bytes, format_seconds

MICRO = 1e-6
# Microseconds, to a nanosecond.
DECIMALS = 3
NAME_CHARACTERS = 24
# Parts of a view's length that are shown before and after it.
MARGIN = 0.03


def gantt(anatomy: Anatomy) -> Chart:
    """Return the traced step that took the median time, with views of its middle block and of all of it."""
    trace = anatomy.trace
    step = typical_step(trace)
    drawn = bars(trace.kernels, step)
    rows = 1 + max(bar.row for bar in drawn)
    by_role: dict[Role, list[Bar]] = defaultdict(list)
    for bar in drawn:
        by_role[bar.kernel.role].append(bar)
    launches = _launches(trace, step)
    traces = [_role_trace(role, by_role[role]) for role in ROLE_COLOURS if role in by_role]
    names = ["kernels" if trace.device == "cuda" else "operators"]
    below = "overlapping" if trace.device == "cuda" else "called"
    names += [below if row == 1 else "" for row in range(1, rows)]
    if launches:
        traces.append(_launch_trace(launches, rows))
        names.append("launches")
    layout = {
        "barmode": "overlay",
        "bargap": 0.12,
        "hovermode": "closest",
        "dragmode": "zoom",
        # A name that does not fit its bar is left to the hover label.
        "uniformtext": {"mode": "hide", "minsize": 10},
        "xaxis": {"title": {"text": "us since the first kernel" if trace.device == "cuda" else "us"}},
        "yaxis": {
            "range": [len(names) - 0.45, -0.55],
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "fixedrange": True,
            "automargin": True,
        },
    }
    return Chart(traces, layout, 150 + 38 * len(names), _caption(anatomy, step), _views(anatomy, step, drawn, launches))


def _role_trace(role: Role, drawn: Sequence[Bar]) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": role,
        "y": [bar.row for bar in drawn],
        "x": [_microseconds(bar.seconds) for bar in drawn],
        "base": [_microseconds(bar.start_seconds) for bar in drawn],
        "marker": {"color": ROLE_COLOURS[role], "line": {"width": 0}},
        "text": [plain(_short_name(bar.kernel)) for bar in drawn],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "hovertext": [_hover(bar) for bar in drawn],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _launch_trace(launches: Sequence[float], row: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "launch on the host",
        "x": list(launches),
        "y": [row] * len(launches),
        "marker": {"symbol": "line-ns-open", "size": 12, "color": IDLE_COLOUR},
        "hovertemplate": "launched at %{x:.4~f} us<extra></extra>",
    }


def _launches(trace: StepTrace, step: int) -> list[float]:
    """Return when the host launched each kernel, in microseconds; nothing where one launch is for all."""
    launched = {_microseconds(kernel.launch_seconds[step]) for kernel in trace.kernels if kernel.launch_seconds}
    return sorted(launched) if len(launched) > 1 else []


def _hover(bar: Bar) -> str:
    kernel = bar.kernel
    # On a CPU the kernel is the operator, and in a plan the operator the module: none is said twice.
    place = [name for name in dict.fromkeys((kernel.op, kernel.scope)) if name not in ("", kernel.name)]
    if kernel.layer is not None:
        place.append(f"layer {kernel.layer}")
    said = [f"<b>{wrapped(kernel.name, 2)}</b>", wrapped(", ".join(place), 2), format_seconds(bar.seconds)]
    lines = [line for line in said if line]
    if kernel.read_bytes:
        rate = f", {format_bandwidth(kernel.read_bytes / bar.seconds)}" if bar.seconds else ""
        lines.append(f"{format_bytes(kernel.read_bytes)}{rate}")
    return "<br>".join(lines)


def _short_name(kernel: TracedKernel) -> str:
    """Return what stands in a bar: the module of a product, the operator of anything else, or the kernel's own name."""
    if kernel.role == "weights" and kernel.scope:
        return kernel.scope.rpartition(".")[2]
    known = kernel.op if kernel.scope or kernel.op.startswith("aten::") else kernel.name
    return known.removeprefix("aten::")[:NAME_CHARACTERS]


def _views(anatomy: Anatomy, step: int, drawn: Sequence[Bar], launches: Sequence[float]) -> list[View]:
    block = middle_block(anatomy)
    first = block[0].start_seconds[step]
    last = max(kernel.start_seconds[step] + kernel.seconds[step] for kernel in block)
    ends = [bar.end_seconds / MICRO for bar in drawn]
    return [
        _view("one decoder block" if knows_layers(anatomy) else "about one block", first / MICRO, last / MICRO),
        _view("whole step", min([0.0, *launches]), max(ends)),
    ]


def _view(label: str, start_us: float, end_us: float) -> View:
    margin_us = MARGIN * (end_us - start_us)
    return View(label, round(start_us - margin_us, DECIMALS), round(end_us + margin_us, DECIMALS))


def _caption(anatomy: Anatomy, step: int) -> str:
    trace = anatomy.trace
    said = [
        f"Every kernel of the traced step of {format_seconds(trace.step_seconds[step])}, by {trace.tool}. "
        "Drag to zoom, double-click to go back."
    ]
    if anatomy.twin and trace.device == "cuda":
        said.append(
            "Launched one by one, it takes longer under the profiler than when it is timed: the gaps are wider."
        )
    if trace.device == "cpu" and trace.labelled != "plan":
        said.append("A bar is the time that an operator does not spend in those it calls, from its start on.")
    if trace.labelled == "names":
        said.append("Roles are told by the kernels' own names; their layers and bytes are not known.")
    return " ".join(said)


def _microseconds(seconds: float) -> float:
    return round(seconds / MICRO, DECIMALS)
