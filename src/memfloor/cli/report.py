"""`memfloor report` and `memfloor figure`: from records to something to read."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from memfloor.cli.output import print_text
from memfloor.cli.records import read_contents, read_quietly
from memfloor.errors import UsageError
from memfloor.record import Contents

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from memfloor.report.summary import CellSummary

FIGURE_FORMATS = (".svg", ".png")
ATTENTION_FIGURE, WEIGHTS_FIGURE, COST_FIGURE, JITTER_FIGURE = "7", "8", "9", "jitter"


def report(folder: Path, /, *, out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("report.html")) -> None:
    """Write one self-contained HTML page about the records of a folder.

    Args:
        folder: Folder with records.
        out: The file to write.
    """
    from memfloor.report.page import render_contents, write_page

    write_page(render_contents(read_quietly(folder), folder), out)
    print_text(f"report: {out.resolve()}")


def figure(
    number: str, folder: Path, /, *, out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("figures")
) -> None:
    """Draw one figure as SVG and PNG.

    Args:
        number: The figure's number in the study, runs for the per-run distributions, forest for all comparisons,
            or jitter for control loops.
        folder: Folder with records.
        out: Folder for the two files, or one file that ends in .svg or .png.
    """
    from memfloor.report.figures import save

    targets = [out] if out.suffix in FIGURE_FORMATS else [out / f"figure-{number}{end}" for end in FIGURE_FORMATS]
    drawn = _draw(number, folder)
    for target in targets:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            save(drawn, target, target.suffix.removeprefix("."))
        except OSError as error:
            raise UsageError(f"cannot write {target}: {error.strerror or error}") from error
        print_text(f"figure {number}: {target.resolve()}")


def _draw(number: str, folder: Path) -> "Figure":
    from memfloor.report.anatomy_figures import ANATOMY_FIGURES
    from memfloor.report.comparison_figures import COMPARISON_FIGURES
    from memfloor.report.figures import FIGURES
    from memfloor.report.summary import summarise

    if number == ATTENTION_FIGURE:
        return _draw_attention(folder)
    if number in ANATOMY_FIGURES:
        return _draw_anatomies(number, folder)
    if number in COMPARISON_FIGURES:
        return _draw_comparisons(number, folder)
    if number == WEIGHTS_FIGURE:
        return _draw_weight_paths(folder)
    if number == JITTER_FIGURE:
        return _draw_loops(folder)
    if number not in (*FIGURES, COST_FIGURE):
        others = (ATTENTION_FIGURE, WEIGHTS_FIGURE, COST_FIGURE, JITTER_FIGURE)
        raise UsageError.unknown("figure", number, [*FIGURES, *ANATOMY_FIGURES, *COMPARISON_FIGURES, *others])
    found = read_contents(folder)
    summaries, _ = summarise(found.runs)
    if not summaries:
        raise UsageError(f"{folder} holds no runs to draw")
    return _draw_costs(summaries, found, folder) if number == COST_FIGURE else FIGURES[number](summaries)


def _draw_anatomies(number: str, folder: Path) -> "Figure":
    from memfloor.report.anatomy_figures import ANATOMY_FIGURES

    anatomies = read_contents(folder).anatomies
    if not anatomies:
        raise UsageError(f"{folder} holds no anatomies to draw; take one with: memfloor anatomy MODEL --out {folder}")
    return ANATOMY_FIGURES[number](anatomies)


def _draw_comparisons(number: str, folder: Path) -> "Figure":
    from memfloor.report.afterwards import compared_in
    from memfloor.report.comparison_figures import COMPARISON_FIGURES

    compared = [item for item in compared_in(read_contents(folder)) if item.ratio]
    if number != "forest":
        # Paths of weights have a figure of their own, and an arm against itself has no speed-up.
        compared = [item for item in compared if not item.of_weights and not (number == "5" and item.baseline.arm)]
    if not compared:
        words = f"{folder} holds no comparison with runs of both arms"
        raise UsageError(f"{words}; take one with: memfloor ab launch MODEL --out {folder}")
    return COMPARISON_FIGURES[number](compared)


def _draw_weight_paths(folder: Path) -> "Figure":
    from memfloor.report.weight_figure import weight_paths
    from memfloor.report.weight_ladder import ladders_in

    ladders = ladders_in(read_contents(folder))
    if not ladders:
        words = f"{folder} holds no paths of weights to draw"
        raise UsageError(f"{words}; take some with: memfloor ab weights MODEL --out {folder}")
    return weight_paths(ladders)


def _draw_attention(folder: Path) -> "Figure":
    from memfloor.report.attention import attention_in
    from memfloor.report.attention_figure import attention_figure

    found = attention_in(read_contents(folder))
    if not found.rows:
        words = f"{folder} holds no runs of attention"
        raise UsageError(f"{words}; take some with: memfloor ab attention MODEL --out {folder}")
    return attention_figure(found)


def _draw_loops(folder: Path) -> "Figure":
    from memfloor.report.control import summarise_loops
    from memfloor.report.control_figure import jitter

    loops = read_contents(folder).control_loops
    if not loops:
        words = f"{folder} holds no control loops to draw"
        raise UsageError(f"{words}; run one with: memfloor deadline MODEL --hz 10 --tokens 7 --out {folder}")
    return jitter(summarise_loops(loops))


def _draw_costs(summaries: Sequence["CellSummary"], found: Contents, folder: Path) -> "Figure":
    from memfloor.report.cost import catalogue_costs, comparable
    from memfloor.report.cost_section import costs
    from memfloor.report.energy import energies_of

    rows = comparable(catalogue_costs(summaries, energies_of(found.energy_runs).summaries))
    if not any(row.origin == "measured" for row in rows):
        raise UsageError(f"{folder} holds no run of the study's workload on a device with a price; see memfloor cost")
    return costs(rows)
