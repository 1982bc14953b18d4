"""Every step of one run in order, over the readings of the ceiling beside it."""

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memfloor.record import Timed
from memfloor.report.colours import GREY, MEASURED_COLOUR, PUBLISHED_COLOUR, THRESHOLD_COLOUR
from memfloor.report.figures import STYLE
from memfloor.report.summary import floor_bytes

STEP_CAPTION = (
    "Above: every step in order (blue: timed; grey: warm-up and settling), and in orange the floor of the streamed "
    "bytes at the ceiling read right before and after. Below: every pass of these readings."
)
# Times the slowest timed step: what took longer, as first steps do, is named and not drawn.
HEADROOM = 1.3


def step_figure(run: Timed) -> Figure:
    """Draw the steps of a run and its readings of the ceiling, over the number of the step."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        steps, ceilings = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.4))
        _draw_steps(steps, run)
        _draw_ceilings(ceilings, run)
    return figure


def _draw_steps(axes: Axes, run: Timed) -> None:
    top = HEADROOM * max(run.step_seconds)
    seconds = [step.seconds / run.steps_per_call for step in run.steps]
    for timed, colour in ((False, GREY), (True, MEASURED_COLOUR)):
        places = [
            place for place, step in enumerate(run.steps) if (step.phase == "timed") == timed and seconds[place] <= top
        ]
        axes.plot([1 + place for place in places], [seconds[place] * 1e3 for place in places], ".", color=colour)
    streamed = floor_bytes(run.cell)["streamed"]
    for part in run.parts():
        floor_ms = streamed / part.ceiling_bytes_per_second * 1e3
        ends = part.steps[0] + 0.6, part.steps[-1] + 1.4
        axes.hlines(floor_ms, *ends, color=THRESHOLD_COLOUR, linewidth=1.6)
    hidden = sum(value > top for value in seconds)
    if hidden:
        axes.set_title(f"{hidden} of {len(seconds)} steps took longer than this axis", loc="left", fontsize=8)
    axes.set_ylim(0, top * 1e3)
    axes.set_ylabel("step, ms")


def _draw_ceilings(axes: Axes, run: Timed) -> None:
    for reading in run.ceilings:
        rates = [reading.pass_bytes / seconds / 1e9 for seconds in reading.pass_seconds]
        axes.plot([reading.after_steps + 0.5] * len(rates), rates, ".", color=PUBLISHED_COLOUR, markersize=4)
        axes.plot(reading.after_steps + 0.5, reading.bytes_per_second / 1e9, "_", color=THRESHOLD_COLOUR, markersize=9)
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.set_ylabel("ceiling, GB/s")
    axes.set_xlabel("step of the run")
