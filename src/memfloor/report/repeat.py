"""The commands that take the same records again: their settings other than defaults, and what was said before."""

from collections import defaultdict
from collections.abc import Sequence

from memfloor.record import Anatomy, Cell, Comparison, EnergyProtocol, Protocol, Timed
from memfloor.report.control import LoopSummary
from memfloor.report.energy import Energies, EnergySummary
from memfloor.report.summary import CellSummary
from memfloor.report.tables import runtime_label
from memfloor.report.weight_ladder import WeightLadder
from memfloor.spec import model_names, unquantized

STUDY = Protocol()
ENERGY = {"seconds": EnergyProtocol().seconds, "idle-seconds": EnergyProtocol().idle_seconds}
BASELINE = "hf-eager"
DEFAULTS = {
    "batch": 1,
    "weights": "bf16",
    "kv": "bf16",
    "warmup-steps": STUDY.warmup_steps,
    "timed-steps": STUDY.timed_steps,
    "seed": 0,
}


def study_commands(summaries: Sequence[CellSummary], comparisons: Sequence[Comparison] = ()) -> list[str]:
    """Return the commands that take the same cells again; runs that comparisons took are left to their commands."""
    sessions = {comparison.session_id for comparison in comparisons}
    contexts: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for summary in summaries:
        runs = [run for run in summary.runs if run.session_id not in sessions]
        # Two arms of an A/A are one cell to a study.
        if runs and summary.cell.arm != "candidate":
            cell = summary.cell
            settings = _settings(cell, _formats(cell), runs[0].protocol, _count(runs), _seed(runs[0]))
            contexts[_model(cell), settings, cell.runtime_text].append(cell.workload.context_len)
    groups: dict[tuple[str, str, tuple[int, ...]], list[str]] = defaultdict(list)
    for (model, settings, runtime), lengths in contexts.items():
        groups[model, settings, tuple(lengths)].append(runtime)
    return [
        f"memfloor study --model {model} {' '.join(f'--runtime {runtime}' for runtime in runtimes)} "
        f"--context {_listed(lengths)} {settings}"
        for (model, settings, lengths), runtimes in groups.items()
    ]


def comparison_commands(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the commands that take the same comparisons again, with what was said before their first runs.

    Those of paths of weights are left to `ladder_commands`.
    """
    contexts: dict[tuple[str, str], list[int]] = defaultdict(list)
    for item in comparisons:
        if item.question == "weights":
            continue
        baseline, candidate = (_arm(cell) for cell in (item.baseline, item.candidate))
        arms = f"--baseline {baseline} --candidate {candidate}" if item.question == "ab" else f"--runtime {baseline}"
        settings = _settings(item.baseline, {}, item.protocol, item.planned_runs, item.seed)
        said = _said(item)
        head = f"memfloor {item.question} {_model(item.baseline)} {arms}"
        contexts[head, " ".join([settings, *said])].append(item.baseline.workload.context_len)
    # A comparison that was taken twice is repeated by one command.
    return [f"{head} --context {_listed(sorted(set(lengths)))} {rest}" for (head, rest), lengths in contexts.items()]


def ladder_commands(ladders: Sequence[WeightLadder]) -> list[str]:
    """Return the commands that take the same paths of weights again, at each context and batch size."""
    return [_ladder_command(ladder) for ladder in ladders]


def _ladder_command(ladder: WeightLadder) -> str:
    cell, rows = ladder.baseline.cell, ladder.rows
    said = next(row.compared.comparison for row in ladder.paths if row.compared and row.compared.comparison)
    baseline = _arm(cell)
    given = [f"--path {row.name}" for row in ladder.paths]
    given += [] if baseline == BASELINE else [f"--baseline {baseline}"]
    qualities = [row.quality for row in rows if row.quality]
    anatomies = max(len(row.ledger.anatomies) if row.ledger else 0 for row in rows)
    given += [f"--anatomies {anatomies}", f"--quality-tokens {qualities[0].tokens if qualities else 0}"]
    given += ["--text FILE"] if qualities and qualities[0].token_source == "text" else []
    settings = _settings(cell, {}, said.protocol, said.planned_runs, said.seed)
    head = f"memfloor ab weights {_model(cell)} {' '.join(given)} --context {cell.workload.context_len}"
    return " ".join([head, settings, *_said(said)])


def _said(comparison: Comparison) -> list[str]:
    said = [f"--margin {comparison.margin:g}"]
    said += [f"--expect-null-below {comparison.expect_null_below:g}"] if comparison.expect_null_below else []
    return said + [f"--may-differ {field}" for field in comparison.may_differ]


def attention_commands(summaries: Sequence[CellSummary]) -> list[str]:
    """Return the commands that take the same attention again, the backends of one context in one session."""
    backends: dict[tuple[str, int, str], list[str]] = defaultdict(list)
    for summary in summaries:
        cell, first = summary.cell, summary.runs[0]
        settings = _settings(cell, {}, first.protocol, _count(summary.runs), _seed(first))
        backends[_model(cell), cell.workload.context_len, settings].append(cell.runtime_text)
    return [
        f"memfloor ab attention {model} {' '.join(f'--backend {name}' for name in names)} --context {length} {settings}"
        for (model, length, settings), names in backends.items()
    ]


def anatomy_commands(anatomies: Sequence[Anatomy], comparisons: Sequence[Comparison] = ()) -> list[str]:
    """Return the commands that take the same anatomies again; those of a session's comparisons are left to theirs."""
    sessions = {comparison.session_id for comparison in comparisons}
    cells: dict[str, list[Anatomy]] = defaultdict(list)
    for anatomy in anatomies:
        if anatomy.session_id in sessions:
            continue
        cells[anatomy.cell.key].append(anatomy)
    return [_anatomy_command(taken) for taken in cells.values()]


def energy_commands(energies: Energies) -> list[str]:
    """Return the commands that take the same energy again."""
    return [_energy_command(summary) for summary in energies.summaries]


def _energy_command(summary: EnergySummary) -> str:
    cell, last = summary.cell, summary.runs[-1]
    given = {"seconds": last.protocol.seconds, "idle-seconds": last.protocol.idle_seconds}
    windows = [f"--{name} {value:g}" for name, value in given.items() if value != ENERGY[name]]
    seed = None if last.seed is None else last.seed - last.block
    settings = _settings(cell, {}, STUDY, 1 + max(run.block for run in summary.runs), seed)
    head = f"memfloor energy {_model(cell)} --runtime {_arm(cell)} --context {cell.workload.context_len}"
    return " ".join([head, *windows, settings])


def _anatomy_command(taken: Sequence[Anatomy]) -> str:
    first = taken[0]
    cell, traced = first.cell, len(first.trace.step_seconds) + first.trace.other_steps
    settings = _settings(cell, {}, first.protocol, _count(taken), _seed(first))
    head = f"memfloor anatomy {_model(cell)} --runtime {_arm(cell)}"
    return f"{head} --context {cell.workload.context_len} --traced-steps {traced} {settings}"


def control_commands(summaries: Sequence[LoopSummary]) -> list[str]:
    """Return the commands that run the same control loops again."""
    return list(map(_control_command, summaries))


def _control_command(summary: LoopSummary) -> str:
    first = summary.first
    cell, seconds = first.cell, 3600 * summary.misses.hours / len(summary.loops)
    given: dict[str, str | int | None] = {
        "hz": f"{1 / first.period_seconds:g}",
        "tokens": first.steps,
        "prompt": cell.workload.context_len,
        "minutes": f"{seconds / 60:.3g}",
        "runs": len(summary.loops),
        "device": cell.device,
        "threads": cell.threads,
        "weights-from": cell.weights_from,
        "seed": None if first.seed is None else first.seed - first.block,
    }
    options = [f"--{name} {value}" for name, value in given.items() if value is not None]
    options += ["--decode-only"] * bool(first.no_prefill) + ["--unpaced"] * (not first.paced)
    return f"memfloor deadline {_model(cell)} --runtime {_arm(cell)} {' '.join(options)}"


def _model(cell: Cell) -> str:
    return cell.spec.name if cell.spec.name in model_names() else cell.spec.source


def _arm(cell: Cell) -> str:
    # Formats are written as options of the runtime, for those of two arms may differ.
    return runtime_label(cell.model_copy(update={"arm": None}))


def _formats(cell: Cell) -> dict[str, str | None]:
    workload = cell.workload
    head = None if workload.head == unquantized(workload.weights) else workload.head
    return {"weights": workload.weights, "head": head, "kv": workload.kv}


def _settings(cell: Cell, formats: dict[str, str | None], protocol: Protocol, runs: int, seed: int | None) -> str:
    given = {
        "device": cell.device,
        "runs": runs,
        "batch": cell.workload.batch,
        **formats,
        "threads": cell.threads,
        "weights-from": cell.weights_from,
        "warmup-steps": protocol.warmup_steps,
        "timed-steps": protocol.timed_steps,
        "seed": seed,
    }
    shown = {name: value for name, value in given.items() if value is not None and value != DEFAULTS.get(name)}
    options = [f"--{name} {value}" for name, value in shown.items()]
    return " ".join(options + ["--prefill"] * cell.prefill)


def _count(taken: Sequence[Timed]) -> int:
    return 1 + max(each.block for each in taken)


def _seed(taken: Timed) -> int | None:
    return None if taken.seed is None else taken.seed - taken.block


def _listed(lengths: Sequence[int]) -> str:
    return ",".join(map(str, lengths))
