"""One self-contained HTML file: it opens offline, in light and dark, on a narrow window."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

import memfloor
from memfloor.errors import UsageError
from memfloor.record import Failure, Run, Skip, UnreadableFile
from memfloor.report.figures import FIGURES, save
from memfloor.report.sentences import headline
from memfloor.report.summary import CellSummary, summarise
from memfloor.report.tables import CELL_COLUMNS, cell_row, invalid_row

CAPTIONS = {
    "1": "Figure 1. Achieved fraction of the floor (streamed bytes), left, and step time, right. Grey: the study's "
    "published cells at context 2048, a reference that was not measured here.",
    "runs": "Every timed step of every run. A run is one fresh process and the unit of resampling.",
}


def figure_svg(figure: Figure) -> str:
    """Return a figure as an SVG element, without the XML head that HTML does not take."""
    buffer = io.StringIO()
    save(figure, buffer, "svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def render(records: Sequence[Run | Failure | Skip], unreadable: Sequence[UnreadableFile], folder: Path) -> str:
    """Return the page for the records of one folder.

    Raises:
        UsageError: There is nothing to report.
    """
    summaries, invalid = summarise(records)
    if not summaries and not invalid:
        raise UsageError(f"{folder} holds no records; take some with: memfloor study --out {folder}")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("memfloor") / "report" / "page.html").read_text())
    return template.render(
        version=memfloor.__version__,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        folder=str(folder),
        headline=headline(summaries) if summaries else "No cell gave a time.",
        columns=CELL_COLUMNS,
        rows=[cell_row(summary) for summary in summaries],
        invalid=[invalid_row(cell) for cell in invalid],
        figures=_figures(summaries),
        environments=_environments(summaries),
        unreadable=unreadable,
        command=repeat_command(summaries),
    )


def write_page(text: str, target: Path) -> None:
    """Write the page.

    Raises:
        UsageError: The file cannot be written.
    """
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from error


def repeat_command(summaries: Sequence[CellSummary]) -> str:
    """Return the command that takes the same cells again."""
    cells = [summary.cell for summary in summaries]
    parts = ["memfloor study"]
    parts += [f"--model {name}" for name in dict.fromkeys(cell.spec.name for cell in cells)]
    runtimes = (",".join([c.runtime, *(f"{k}={v}" for k, v in sorted(c.options.items()))]) for c in cells)
    parts += [f"--runtime {name}" for name in dict.fromkeys(runtimes)]
    contexts = sorted({cell.workload.context_len for cell in cells})
    parts.append(f"--context {','.join(map(str, contexts))}")
    parts.append(f"--runs {max((len(summary.runs) for summary in summaries), default=1)}")
    return " ".join(parts)


def _figures(summaries: Sequence[CellSummary]) -> list[tuple[str, str]]:
    if not summaries:
        return []
    return [(figure_svg(draw(summaries)), CAPTIONS[name]) for name, draw in FIGURES.items()]


def _environments(summaries: Sequence[CellSummary]) -> list[dict[str, str]]:
    """Return each different environment once, in words."""
    found: dict[str, dict[str, str]] = {}
    for run in (run for summary in summaries for run in summary.runs):
        e = run.environment
        facts = {
            "device": e.device.name,
            "driver": e.device.driver_version or "-",
            "host processor": f"{e.cpu_name}, {e.logical_cpus} cores, {e.threads} threads used",
            "kernel": e.kernel,
            "Python": e.python,
            "packages": ", ".join(f"{name} {version}" for name, version in sorted(e.packages.items())),
            "commit": e.git_commit or "not run from a checkout",
            "huge pages": e.huge_pages,
            "ceiling": run.ceilings[0].method,
            "attention": run.path.facts.get("attention_implementation", "-"),
        }
        found.setdefault(str(facts), facts)
    return list(found.values())
