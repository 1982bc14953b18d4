"""One self-contained HTML file: it opens offline, in light and dark, on a narrow window."""

import io
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

import memfloor
from memfloor.errors import UsageError
from memfloor.record import Anatomy, Failure, Protocol, Run, Skip, Timed, UnreadableFile
from memfloor.report.anatomy_figures import ANATOMY_FIGURES
from memfloor.report.anatomy_section import ledger_sections
from memfloor.report.figures import FIGURES, save
from memfloor.report.interactive import scripts
from memfloor.report.ledger import LEDGER_COLUMNS
from memfloor.report.sentences import cautions, headline
from memfloor.report.summary import CellSummary, InvalidCell, summarise
from memfloor.report.tables import CELL_COLUMNS, cell_row, invalid_row
from memfloor.spec import model_names, unquantized

CAPTIONS = {
    "1": "Figure 1. Achieved fraction of the floor (streamed bytes), left, and step time, right. Grey: the study's "
    "published cells at context 2048, a reference that was not measured here; its fractions count all parameters.",
    "2": "Figure 2. The kernels of the middle decoder block in order, those in a row that serve one module as one bar: "
    "time in us, and for those that read weights or the KV cache their bytes and the bandwidth they reach. Left out: "
    "cells whose kernels are known by their names alone.",
    "3": "Figure 3. When these kernels ran in a traced step, those that overlap below each other; a profiler widens "
    "the gaps where kernels are launched one by one. Where no layer is known: a layer's share of the step.",
    "4": "Figure 4. The whole step by owner, of the anatomy with the median step: left in time, right as parts of the "
    "step. Grey: the floor at the paired ceiling. What passes the black line was predicted and not timed: unexplained "
    "below zero. Hatched, if shown: the study's published anatomy, whose compute is below every byte floor.",
    "runs": "Every timed step of every run. A run is one fresh process and the unit of resampling.",
}


def figure_svg(figure: Figure) -> str:
    """Return a figure as an SVG element, without the XML head that HTML does not take."""
    buffer = io.StringIO()
    save(figure, buffer, "svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def render(
    records: Sequence[Run | Failure | Skip],
    unreadable: Sequence[UnreadableFile],
    folder: Path,
    anatomies: Sequence[Anatomy] = (),
    sections: Sequence[str] = (),
) -> str:
    """Return the page for the records of one folder.

    Args:
        records: Runs, failures and skips.
        unreadable: Files that were left out.
        folder: Where all this was read.
        anatomies: Anatomies.
        sections: What stands below the cells, as HTML.

    Raises:
        UsageError: There is nothing to report.
    """
    summaries, invalid = summarise(records)
    if not summaries and not invalid and not anatomies and not any(sections):
        raise UsageError(f"{folder} holds no records; take some with: memfloor study --out {folder}")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("memfloor") / "report" / "page.html").read_text())
    return template.render(
        version=memfloor.__version__,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        folder=str(folder),
        headline=headline(summaries)
        if summaries
        else "No cell gave a time."
        if invalid
        else "Anatomies, and no plain runs.",
        cautions=cautions(summaries),
        columns=CELL_COLUMNS,
        tables=_tables(summaries, invalid),
        figures=_figures(summaries),
        sections=sections,
        ledger_columns=LEDGER_COLUMNS,
        ledgers=ledger_sections(anatomies, folder),
        anatomy_figures=[(figure_svg(draw(anatomies)), CAPTIONS[name]) for name, draw in ANATOMY_FIGURES.items()]
        if anatomies
        else [],
        environments=_environments([*(run for item in summaries for run in item.runs), *anatomies]),
        unreadable=unreadable,
        commands=repeat_commands(summaries),
        scripts=scripts() if anatomies else [],
    )


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


def repeat_commands(summaries: Sequence[CellSummary]) -> list[str]:
    """Return the commands that take the same cells again, with every setting that is not a default."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[str]] = defaultdict(list)
    contexts: dict[tuple[str, str, str], list[CellSummary]] = defaultdict(list)
    for summary in summaries:
        # Two arms of an A/A are one cell to a study.
        if summary.cell.arm != "candidate":
            contexts[_model(summary), _settings(summary), summary.cell.runtime_text].append(summary)
    for (model, settings, runtime), members in contexts.items():
        groups[model, settings, tuple(item.cell.workload.context_len for item in members)].append(runtime)
    return [
        f"memfloor study --model {model} {' '.join(f'--runtime {runtime}' for runtime in runtimes)} "
        f"--context {','.join(map(str, lengths))} {settings}"
        for (model, settings, lengths), runtimes in groups.items()
    ]


def _model(summary: CellSummary) -> str:
    spec = summary.cell.spec
    return spec.name if spec.name in model_names() else spec.source


def _settings(summary: CellSummary) -> str:
    cell, protocol, first, study = summary.cell, summary.runs[0].protocol, summary.runs[0], Protocol()
    given = {
        "device": cell.device,
        "runs": max(run.block for run in summary.runs) + 1,
        "batch": cell.workload.batch,
        "weights": cell.workload.weights,
        "head": None if cell.workload.head == unquantized(cell.workload.weights) else cell.workload.head,
        "kv": cell.workload.kv,
        "threads": cell.threads,
        "weights-from": cell.weights_from,
        "warmup-steps": protocol.warmup_steps,
        "timed-steps": protocol.timed_steps,
        "seed": None if first.seed is None else first.seed - first.block,
    }
    defaults = {
        "batch": 1,
        "weights": "bf16",
        "kv": "bf16",
        "warmup-steps": study.warmup_steps,
        "timed-steps": study.timed_steps,
        "seed": 0,
    }
    shown = {name: value for name, value in given.items() if value is not None and value != defaults.get(name)}
    options = [f"--{name} {value}" for name, value in shown.items()]
    return " ".join(options + ["--prefill"] * cell.prefill)


def _figures(summaries: Sequence[CellSummary]) -> list[tuple[str, str]]:
    if not summaries:
        return []
    return [(figure_svg(draw(summaries)), CAPTIONS[name]) for name, draw in FIGURES.items()]


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


def _environments(taken: Sequence[Timed]) -> list[dict[str, str]]:
    """Return each different environment once, in words."""
    found: dict[str, dict[str, str]] = {}
    for run in taken:
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
