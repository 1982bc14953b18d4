"""One self-contained HTML file: it opens offline, in light and dark, on a narrow window."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import memfloor
from memfloor.errors import UsageError
from memfloor.record import (
    Anatomy,
    Contents,
    ControlLoop,
    Environment,
    Failure,
    MeasuredEnergy,
    ObservedPath,
    Run,
    Skip,
    Timed,
    UnreadableFile,
)
from memfloor.report.afterwards import compared_in
from memfloor.report.anatomy_section import anatomy_section
from memfloor.report.attention import Attention, attention_in
from memfloor.report.attention_section import attention_section
from memfloor.report.by_cell import InvalidCell
from memfloor.report.compared import Compared
from memfloor.report.comparison_section import comparison_section
from memfloor.report.control import summarise_loops
from memfloor.report.control_section import control_section
from memfloor.report.cost import catalogue_costs
from memfloor.report.cost_section import cost_section
from memfloor.report.energy import Energies, energies_of
from memfloor.report.energy_section import energy_section
from memfloor.report.figures import FIGURES, figure_svg
from memfloor.report.interactive import scripts, table_script
from memfloor.report.prediction_section import prediction_section
from memfloor.report.repeat import (
    anatomy_commands,
    attention_commands,
    comparison_commands,
    control_commands,
    energy_commands,
    ladder_commands,
    study_commands,
)
from memfloor.report.sentences import cautions, headline
from memfloor.report.shown import LONG_TABLE, drawn_cells, left_out
from memfloor.report.summary import CellSummary, summarise
from memfloor.report.tables import CELL_COLUMNS, cell_row, invalid_row
from memfloor.report.templates import template
from memfloor.report.weight_ladder import WeightLadder, ladders_in
from memfloor.report.weight_section import weight_section

CAPTIONS = {
    "1": "Figure 1. Achieved fraction of the floor (streamed bytes), left, and step time, right. Grey: the study's "
    "published cells at context 2048, a reference that was not measured here; its fractions count all parameters.",
    "runs": "Every timed step of every run. A run is one fresh process and the unit of resampling.",
}


def render(
    records: Sequence[Run | Failure | Skip],
    unreadable: Sequence[UnreadableFile],
    folder: Path,
    anatomies: Sequence[Anatomy] = (),
    compared: Sequence[Compared] = (),
    ladders: Sequence[WeightLadder] = (),
    attention: Attention | None = None,
    energies: Energies | None = None,
    loops: Sequence[ControlLoop] = (),
) -> str:
    """Return the page for the records of one folder.

    Args:
        records: Runs, failures and skips.
        unreadable: Files that were left out.
        folder: Where all this was read.
        anatomies: Anatomies.
        compared: Comparisons.
        ladders: Paths of weights.
        attention: What was said of attention backends.
        energies: What was said of energy.
        loops: Control loops.

    Raises:
        UsageError: There is nothing to report.
    """
    summaries, invalid = summarise(records)
    attention, energies = attention or Attention(), energies or Energies()
    other = attention.rows, attention.invalid, energies.summaries, energies.without, loops
    if not any((summaries, invalid, anatomies, compared, *other)):
        raise UsageError(f"{folder} holds no records; take some with: memfloor study --out {folder}")
    comparisons = [item.comparison for item in compared if item.comparison]
    every = [*summaries, *(row.summary for row in attention.rows)]
    tables = _tables(summaries, invalid)
    longest = max([len(compared), *(len(rows) + len(lost) for _, rows, lost in tables)])
    has_charts = bool(anatomies) or any(item.ratio for item in compared)
    return template("page").render(
        version=memfloor.__version__,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        folder=str(folder),
        style=page_style(),
        headline=headline(summaries)
        if summaries
        else _without_times(invalid, anatomies, compared, attention, energies, loops),
        cautions=cautions(summaries),
        columns=CELL_COLUMNS,
        tables=tables,
        figures=_figures(summaries),
        sections=[
            weight_section(ladders),
            comparison_section(compared),
            attention_section(attention),
            anatomy_section(anatomies, folder),
            energy_section(energies),
            control_section(loops),
            cost_section(catalogue_costs(summaries, energies.summaries)),
            prediction_section(summaries),
        ],
        environments=_environments(
            [*(run for item in every for run in item.runs), *anatomies],
            [*(taken for item in energies.summaries for taken in item.measured), *loops],
        ),
        unreadable=unreadable,
        commands=[
            *study_commands(summaries, comparisons),
            *comparison_commands(comparisons),
            *ladder_commands(ladders),
            *attention_commands([row.summary for row in attention.rows]),
            *anatomy_commands(anatomies, comparisons),
            *energy_commands(energies),
            *control_commands(summarise_loops(loops)),
        ],
        long_table=LONG_TABLE,
        scripts=[*(table_script() if longest > LONG_TABLE else []), *(scripts() if has_charts else [])],
    )


def render_contents(found: Contents, folder: Path) -> str:
    """Return the page for all that lies in one folder.

    Args:
        found: What was read there.
        folder: The folder.

    Raises:
        UsageError: There is nothing to report.
    """
    energies = energies_of(found.energy_runs)
    shown = compared_in(found), ladders_in(found), attention_in(found), energies, found.control_loops
    return render(found.runs, found.unreadable, folder, found.anatomies, *shown)


def page_style() -> str:
    """Return the style sheet of the page, which stands in it."""
    return (files("memfloor") / "report" / "page.css").read_text(encoding="utf-8")


def _without_times(
    invalid: Sequence[InvalidCell],
    anatomies: Sequence[Anatomy],
    compared: Sequence[Compared],
    attention: Attention,
    energies: Energies,
    loops: Sequence[ControlLoop],
) -> str:
    if invalid:
        return "No cell gave a time."
    kinds = {
        "anatomies": anatomies,
        "comparisons": compared,
        "attention backends": attention.rows or attention.invalid,
        "energy": energies.summaries or energies.without,
        "control loops": loops,
    }
    return f"{' and '.join(name for name, found in kinds.items() if found).capitalize()}, and no plain runs."


def write_page(text: str, target: Path) -> None:
    """Write the page.

    Raises:
        UsageError: The file cannot be written.
    """
    try:
        if target.exists() and not target.is_file():
            # A pipe or a device is written to, not replaced.
            target.write_text(text, encoding="utf-8")
            return
        # Written beside it first: a full disk must not cost the page that was there before.
        draft = target.with_name(f".{target.name}.draft")
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from error


def _figures(summaries: Sequence[CellSummary]) -> list[tuple[str, str]]:
    if not summaries:
        return []
    drawn = drawn_cells(summaries)
    more = left_out(len(drawn), len(summaries), "cells")
    return [(figure_svg(draw(drawn)), CAPTIONS[name] + more) for name, draw in FIGURES.items()]


def _tables(
    summaries: Sequence[CellSummary], invalid: Sequence[InvalidCell]
) -> list[tuple[str, list[list[str]], list[list[str]]]]:
    """Return for each device its name, the rows of its cells and those of its cells without times."""
    rows: dict[str, list[list[str]]] = defaultdict(list)
    lost: dict[str, list[list[str]]] = defaultdict(list)
    for summary in summaries:
        rows[summary.device.name].append(cell_row(summary))
    for cell in invalid:
        # What failed before it had a device is told with those of the only one, if there is one.
        named = cell.device.name if cell.device else next(iter(rows)) if len(rows) == 1 else "no device"
        lost[named].append(invalid_row(cell))
    return [(name, rows[name], lost[name]) for name in dict.fromkeys((*rows, *lost))]


def _environments(timed: Sequence[Timed], other: Sequence[MeasuredEnergy | ControlLoop]) -> list[dict[str, str]]:
    """Return each different environment once, in words; one without a ceiling only where no other has it too."""
    found: dict[str, dict[str, str]] = {}
    for run in timed:
        facts = environment_facts(run.environment, run.path) | {"ceiling": run.ceilings[0].method}
        found.setdefault(str(facts), facts)
    for taken in other:
        facts = environment_facts(taken.environment, taken.path)
        if not any(facts.items() <= known.items() for known in found.values()):
            found[str(facts)] = facts
    return list(found.values())


def environment_facts(e: Environment, path: ObservedPath | None) -> dict[str, str]:
    """Return where a run was taken, in words, and the attention that it really took, if its path was observed."""
    return {
        "device": e.device.name,
        "driver": e.device.driver_version or "-",
        "host processor": f"{e.cpu_name}, {e.logical_cpus} cores, {e.threads} threads used",
        "kernel": e.kernel,
        "Python": e.python,
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(e.packages.items())),
        "commit": e.git_commit or "not run from a checkout",
        "huge pages": e.huge_pages,
        "attention": path.facts.get("attention_implementation", "-") if path else "-",
    }
