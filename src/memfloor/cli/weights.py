"""`memfloor ab weights`: what fewer bytes of weights buy by each path, and what they cost in quality."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from memfloor.cli.comparing import AGREED, Agreed, say, take_session, terms_of
from memfloor.cli.measure import (
    DEFAULTS,
    EXIT_NOTHING_MEASURED,
    EXIT_REFUSED,
    RunOptions,
    chosen_device,
    grid_options,
    time_limit,
)
from memfloor.cli.output import one_or_list, print_json, print_table, print_text, print_wide_table
from memfloor.cli.parse import parse_counts, parse_runtime
from memfloor.errors import UsageError
from memfloor.record import Contents

if TYPE_CHECKING:
    from memfloor.experiments.comparing import RuntimeText
    from memfloor.experiments.session import Session
    from memfloor.report.weight_ladder import WeightLadder

DEFAULT_RUNS = 10


def weights(
    model: str,
    /,
    *,
    path: Annotated[list[str] | None, Parameter(negative=())] = None,
    baseline: str = "bf16",
    context: str = "2048",
    anatomies: int = 1,
    quality_tokens: int = 64,
    text: Path | None = None,
    agreed: Agreed = AGREED,
    options: RunOptions = DEFAULTS,
) -> None:
    """Say what fewer bytes of weights buy: whole steps by each path beside one baseline, where the rest goes, quality.

    The exit status is 1 where nothing was measured, and 3 where a verdict is refused.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json.
        path: A path of the catalogue, as in engine-int8, or a runtime with its options and formats, as in
            engine,weights=int8,head=int8; repeatable; all of the catalogue on this device unless given.
        baseline: What all paths are compared with, named as a path.
        context: Tokens in the KV cache, a comma list: a ladder at each.
        anatomies: Anatomies of each path, which say where its time goes; 0 takes none.
        quality_tokens: Tokens whose logits are compared with those of the bf16 source; 0 takes no quality.
        text: File whose first tokens these are, by the tokenizer of --weights-from; seeded random tokens unless given.
        agreed: What is said before the first run.
        options: How runs are taken; --runs are blocks.
    """
    from memfloor.experiments.quality import given_tokens, lacking_qualities, take_qualities
    from memfloor.experiments.weight_paths import default_paths, ladder_pairs, not_taken_apart, take_apart

    _check(anatomies, options)
    device = chosen_device(options)
    contexts = parse_counts(context, "context")
    chosen = [(name, _runtime(name)) for name in path or default_paths(device)]
    pairs = ladder_pairs(model, contexts, _runtime(baseline), chosen, device, grid_options(options))
    given = given_tokens(pairs[0].baseline.spec, quality_tokens, text, options.weights_from, options.seed)
    terms, limit = terms_of("weights", agreed, options, DEFAULT_RUNS, device), time_limit(options)

    def lacks(session: "Session") -> bool:
        return bool(not_taken_apart(session, anatomies) or (given and lacking_qualities(session, given)))

    store, session = take_session(pairs, terms, options, lacks)
    session = take_apart(session, anatomies, store, limit, say)
    if given:
        session = take_qualities(session, given, store, limit, say)
    _show(session.contents, options)


def _check(anatomies: int, options: RunOptions) -> None:
    if anatomies < 0:
        raise UsageError(f"anatomies must be 0 or more, not {anatomies}")
    if options.weights != DEFAULTS.weights or options.head is not None:
        raise UsageError("formats belong to paths here: give --path engine,weights=int8,head=int8 instead")


def _runtime(name: str) -> "RuntimeText":
    from memfloor.experiments.weight_paths import PATHS, named_path
    from memfloor.runtimes import REGISTRY

    known = named_path(name)
    if known is not None:
        return known
    runtime, options = parse_runtime(name)
    if runtime not in REGISTRY:
        names = f"{', '.join(PATHS)}, or a runtime with its options: {', '.join(REGISTRY)}"
        raise UsageError(f"unknown path {name!r}; allowed: {names}")
    return runtime, options


def _show(found: Contents, options: RunOptions) -> None:
    from memfloor.report.weight_ladder import ladders_in

    ladders = ladders_in(found)
    compared = [path.compared for ladder in ladders for path in ladder.paths if path.compared]
    nothing = all(item.ratio is None for item in compared)
    if nothing:
        print("memfloor: no block has a run of the baseline and of a path", file=sys.stderr)
    if options.json:
        print_json(one_or_list([ladder.to_json() for ladder in ladders]))
    else:
        _print(ladders, options.out)
    if nothing:
        sys.exit(EXIT_NOTHING_MEASURED)
    if any(item.refused for item in compared):
        sys.exit(EXIT_REFUSED)


def _print(ladders: "Sequence[WeightLadder]", folder: Path) -> None:
    from memfloor.report import weight_tables as tables

    for ladder in ladders:
        title = f"{tables.ladder_title(ladder)}; records in {folder}"
        columns, *rows = (
            [row[place] for place in tables.TERMINAL]
            for row in (tables.TRAFFIC_COLUMNS, *map(tables.traffic_row, ladder.rows))
        )
        print_wide_table(title, columns, rows, tables.WIDE_TABLE, tables.NARROW)
        for heading, names, found in (
            ("Where the time beyond the floor goes, ms", tables.WHY_COLUMNS, tables.why_rows(ladder)),
            ("Quality beside it", tables.QUALITY_COLUMNS, tables.quality_rows(ladder)),
        ):
            if found:
                print_table(heading, names, found)
        print_text("\n".join(tables.ladder_lines(ladder)))
