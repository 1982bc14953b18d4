"""`memfloor ab attention`: decode attention of one shape through every backend."""

import sys
from typing import Annotated

from cyclopts import Parameter

from memfloor.cli.comparing import Agreed, take_session, terms_of
from memfloor.cli.measure import DEFAULTS, EXIT_NOTHING_MEASURED, EXIT_REFUSED, RunOptions, chosen_device
from memfloor.cli.output import print_json, print_text, print_wide_table
from memfloor.cli.parse import parse_counts, parse_runtime
from memfloor.errors import UsageError
from memfloor.report.attention import Attention, attention_of, lost_json
from memfloor.report.attention_table import ATTENTION_COLUMNS, NARROW, WIDE_TABLE, attention_row, row_title, skipped_row
from memfloor.report.colours import first_word

# What shapes a step and not its attention.
OTHER_OPTIONS = ("weights", "head", "kv", "prefill", "weights_from")


def attention(
    model: str,
    /,
    *,
    backend: Annotated[list[str] | None, Parameter(negative=())] = None,
    context: str = "2048",
    margin: float = 0.02,
    options: RunOptions = DEFAULTS,
) -> None:
    """Time the decode attention of all layers through each backend, and show it per layer (Figure 7).

    Every layer has a KV cache of its own, in bf16, so that none finds its keys and values in a cache. What cannot run
    here is recorded with its reason. The exit status is 1 where nothing was measured, and 3 where a verdict is refused.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json; its shape is used, not its weights.
        backend: Backend and its options, as in sdpa,backend=math, repeatable; all unless given. sdpa as torch chooses
            is always taken: it is what the others are compared with.
        context: Tokens in the KV cache, the query's own included, a comma list.
        margin: Share by which a backend may differ from sdpa and be called equivalent.
        options: How runs are taken; --runs are blocks, 3 unless given.
    """
    from memfloor.experiments.attention import DEFAULT_RUNS, attention_pairs

    _check(options)
    device = chosen_device(options)
    pairs = attention_pairs(
        model,
        parse_counts(context, "context"),
        [parse_runtime(text) for text in backend or ()],
        device,
        batch=parse_counts(options.batch, "batch"),
        threads=options.threads,
    )
    _, session = take_session(pairs, terms_of("ab", Agreed(margin), options, DEFAULT_RUNS, device), options)
    _show(attention_of(session.comparisons, session.records), options)


def _show(found: Attention, options: RunOptions) -> None:
    if not found.rows:
        print("memfloor: no backend gave a time", file=sys.stderr)
    if options.json:
        print_json([*(row.to_json() for row in found.rows), *map(lost_json, found.invalid)])
    else:
        title = f"decode attention of one layer, records in {options.out}"
        # One model is run, and what stands behind a verdict has no room in a line.
        rows = [[*attention_row(row)[1:-1], first_word(row.verdict)] for row in found.rows]
        print_wide_table(title, ATTENTION_COLUMNS[1:], rows, WIDE_TABLE, NARROW)
        print_text("\n".join([*_reasons(found), *found.cautions]))
    if not found.rows:
        sys.exit(EXIT_NOTHING_MEASURED)
    if any(row.refused for row in found.rows):
        sys.exit(EXIT_REFUSED)


def _reasons(found: Attention) -> list[str]:
    """Return why backends were not run, and the verdicts that a table has no room for."""
    skipped = [" ".join(skipped_row(cell)) for cell in found.invalid]
    said = [row for row in found.rows if first_word(row.verdict) != row.verdict]
    return skipped + [f"{row_title(row)}: {row.verdict}" for row in said]


def _check(options: RunOptions) -> None:
    given = [name for name in OTHER_OPTIONS if getattr(options, name) != getattr(DEFAULTS, name)]
    if given:
        raise UsageError(f"--{given[0].replace('_', '-')} does not shape attention, which reads a KV cache in bf16")
