"""A ladder of weight paths as text: expected beside observed traffic, who owns the rest, and quality."""

from collections.abc import Mapping, Sequence

from memfloor.record import Quality
from memfloor.report.alarms import alarms_of
from memfloor.report.breakdown import IDLE
from memfloor.report.ledger import Ledger
from memfloor.report.qualities import quality_means
from memfloor.report.tables import percent_interval, runtime_label, workload_text
from memfloor.report.weight_ladder import Saving, WeightLadder, WeightRow
from memfloor.spec import weight_format
from memfloor.units import MILLI, format_bytes, format_percent, format_seconds

TRAFFIC_COLUMNS = (
    "path",
    "all bytes",
    "promised",
    "measured",
    "share realised",
    "of its own 16 bits",
    "step",
    "of ceiling",
    "weights",
    "scales",
    "head",
    "KV",
    "runtime",
    "verdict",
)
# What a terminal shows, by place among all columns; the characters that this takes, and what fits a narrow one.
TERMINAL = (0, 1, 2, 3, 4, 5, 6, 7, 13)
WIDE_TABLE = 160
NARROW = (0, 2, 3, 4, 6)
# Of a path, named in a sentence.
MOST_KERNELS = 3
WHY_COLUMNS = (
    "path",
    "step",
    "floor",
    "16-bit head",
    "dequantisation",
    "products",
    "attention",
    "host and launch",
    "others",
    "unexplained",
    "why",
)
QUALITY_COLUMNS = ("path", "relative error", "same top-1", "KL, nats", "perplexity", "of its source", "why")
# Of a ledger, those that a reader of weight paths does not tell apart.
OTHERS = ("norms and elementwise", "cache copies", "sampling")
DEQUANTIZATION = "dequantisation"
NOTHING = "-"
# An interval as wide as this tells nothing of a share from all of it, or twice that.
WIDEST_SHARE = 2.0
UNRESOLVED = "not resolved"


def ladder_title(ladder: WeightLadder) -> str:
    """Return model, context and device of a ladder in a few words."""
    cell, runs = ladder.baseline.cell, [run for row in ladder.rows for run in row.runs]
    device = f", {runs[0].environment.device.name}" if runs else ""
    return f"{cell.spec.name}, context {workload_text(cell)}{device}"


def row_title(row: WeightRow) -> str:
    """Return what a row is called: a path by its name, the baseline by its runtime."""
    return row.name if row.saving else f"{runtime_label(row.cell)} (baseline)"


def traffic_row(row: WeightRow) -> list[str]:
    """Return what a path should read and save, and what it saves; in place of times why there are none."""
    traffic, summary = row.traffic, row.summary
    parts = traffic.attention_weights + traffic.mlp_weights, traffic.scales, traffic.head, traffic.kv_read
    return [
        row_title(row),
        format_bytes(traffic.total_bytes),
        f"{row.saving.promised:.3f}" if row.saving else NOTHING,
        str(row.compared.ratio) if row.compared and row.compared.ratio else NOTHING,
        _share(row.saving),
        _share(row.own_saving),
        format_seconds(summary.p50_seconds.value) if summary else NOTHING,
        percent_interval(summary.fractions["streamed"].ceiling) if summary else NOTHING,
        *map(format_bytes, parts),
        runtime_label(row.cell),
        _verdict(row),
    ]


def why_rows(ladder: WeightLadder) -> list[list[str]]:
    """Return the ledger of every row; nothing where no anatomy was asked for."""
    asked = any(row.ledger or row.untraced for row in ladder.rows)
    return list(map(why_row, ladder.rows)) if asked else []


def why_row(row: WeightRow) -> list[str]:
    """Return the ledger of a path in milliseconds, or why it has none that can be believed."""
    head = row.wide_head_bytes / row.traffic.total_bytes
    if row.ledger is None or row.ledger.refused:
        reason = row.ledger.verdict if row.ledger else row.untraced or row.lost or "no anatomy was taken"
        return [row_title(row), *[NOTHING] * (len(WHY_COLUMNS) - 2), reason]
    lines = {name: estimate.value for name, estimate in row.ledger.lines.items()}
    others = sum(lines.get(name, 0.0) for name in OTHERS)
    return [
        row_title(row),
        _milliseconds(row.ledger.step_seconds.value),
        _milliseconds(lines["floor"]),
        _milliseconds(head * lines["floor"]) if head else NOTHING,
        _dequantization(row.ledger, lines),
        *(_milliseconds(lines[name]) for name in ("weight products", "attention", IDLE[0])),
        _milliseconds(others),
        _milliseconds(lines["unexplained"]),
        _why(row.ledger),
    ]


def quality_rows(ladder: WeightLadder) -> list[list[str]]:
    """Return the quality of every row that has one, and of float32 arithmetic, which says how much is bf16's own."""
    rows = [quality_row(row_title(row), row.quality) for row in ladder.rows if row.quality]
    return [*rows[:1], *([quality_row("float32", ladder.float32)] if ladder.float32 else []), *rows[1:]]


def quality_row(name: str, quality: Quality) -> list[str]:
    """Return what a path's logits are worth, or why it gave none."""
    if quality.errors is None:
        return [name, *[NOTHING] * (len(QUALITY_COLUMNS) - 2), quality.problem or NOTHING]
    means = quality_means(quality.errors)
    return [
        name,
        f"{means.relative_error:.2e}",
        format_percent(means.top1_agreement),
        f"{means.kl_nats:.2e}",
        f"{means.perplexity:.4g}",
        f"{means.reference_perplexity:.4g}",
        "",
    ]


def ladder_lines(ladder: WeightLadder) -> list[str]:
    """Return in sentences what the tables of a ladder rest on."""
    said = [
        "Promised: the baseline's bytes over the path's. Share realised: the time saved over what the bytes saved take "
        "at the paired ceiling; more than all where the path also sheds time that is not its bytes'; "
        f"{UNRESOLVED} where its interval is wider than from none to twice the bytes'.",
        "Of its own 16 bits: the same over the same runtime with 16-bit weights, which is what the format alone does.",
    ]
    if why_rows(ladder):
        said.append("The 16-bit head is a part of the floor.")
    else:
        said.append("Who owns the rest of the time is not said: no anatomy was taken (--anatomies).")
    qualities = [row.quality for row in ladder.rows if row.quality]
    said.append(_given(qualities[0]) if qualities else "No quality was taken (--quality-tokens).")
    said += [f"{_flag(row)}, {row_title(row)}: {_few(row.kernels)}." for row in ladder.rows if row.kernels]
    return said + [f"Alarm, {row_title(row)}: {text}." for row in ladder.rows for text in alarms_of(row.runs)]


def _few(kernels: str) -> str:
    """Return the first of many kernels, and what is said of all; what Inductor writes has a kernel for each fusion."""
    *named, last = kernels.split(", ")
    beyond = len(named) - MOST_KERNELS
    return kernels if beyond <= 0 else ", ".join([*named[:MOST_KERNELS], f"{beyond} more", last])


def _flag(row: WeightRow) -> str:
    return "Flag, other kernels than those of quantised weights" if row.astray else "Kernels"


def _given(quality: Quality) -> str:
    weights = (
        "the checkpoint's" if quality.weights_source == "checkpoint" else "seeded random ones, the same for all paths"
    )
    tokens = "of the text" if quality.token_source == "text" else "at random, of which perplexity says little"
    return (
        f"Quality: {quality.tokens} tokens {tokens}, decoded from an empty cache one a step, against Hugging Face "
        f"eager in bf16; weights are {weights}. The row float32 is the noise of bf16 itself."
    )


def _share(found: Saving | None) -> str:
    if found is None or found.realised is None:
        return NOTHING
    mean = found.realised
    if mean.ci95 and mean.ci95[1] - mean.ci95[0] > WIDEST_SHARE:
        return UNRESOLVED
    interval = f" [{100 * mean.ci95[0]:.0f}, {100 * mean.ci95[1]:.0f}]" if mean.ci95 else ""
    return f"{100 * mean.value:.0f} %{interval}"


def _verdict(row: WeightRow) -> str:
    if row.lost:
        return f"none: {row.lost}"
    return row.compared.verdict if row.compared else "baseline"


def _why(ledger: Ledger) -> str:
    terms: Sequence[tuple[float, str]] = [(term.seconds.value, term.name) for term in ledger.terms]
    return f"most of the rest: {max(terms)[1]}"


def _dequantization(ledger: Ledger, lines: Mapping[str, float]) -> str:
    if DEQUANTIZATION in lines:
        return _milliseconds(lines[DEQUANTIZATION])
    cell, labelled = ledger.typical.cell, ledger.typical.trace.labelled
    fused = labelled == "plan" and weight_format(cell.workload.weights).is_quantized
    return "in the products" if fused else NOTHING


def _milliseconds(seconds: float) -> str:
    return f"{seconds / MILLI:.3f}"
