"""What the commands that compare have in common: say, take, observe, and show."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from memfloor.cli.measure import EXIT_NOTHING_MEASURED, EXIT_REFUSED, RunOptions, protocol, run_count, time_limit
from memfloor.cli.output import one_or_list, print_json, print_text, print_wide_table
from memfloor.cli.parse import check_margin
from memfloor.cli.progress import SessionProgress
from memfloor.errors import UsageError
from memfloor.record import DifferingField, Question, Store

if TYPE_CHECKING:
    from memfloor.experiments.comparing import Pair, Terms
    from memfloor.experiments.session import Lacks, Session
    from memfloor.report.compared import Compared


@Parameter(name="*")
@dataclass(frozen=True)
class Agreed:
    """What is said of a comparison before its first run.

    Attributes:
        margin: Share by which the arms may differ and be called equivalent.
        expect_null_below: Speed-up that is claimed not to be reached; the interval decides.
        may_differ: What may differ between the runs without the verdict being refused, repeatable.
    """

    margin: float = 0.02
    expect_null_below: float | None = None
    may_differ: Annotated[tuple[DifferingField, ...], Parameter(negative=())] = ()


AGREED = Agreed()


def run_comparisons(
    question: Literal["ab", "aa"], pairs: Sequence["Pair"], agreed: Agreed, options: RunOptions, default_runs: int
) -> None:
    """Write comparisons down, take their runs, observe their arms, and print what came out.

    Args:
        question: Whether the arms are meant to differ.
        pairs: The arms.
        agreed: What is said before the first run.
        options: How runs are taken.
        default_runs: Blocks unless the options give them.
    """
    from memfloor.experiments.comparing import observe_arms
    from memfloor.report.compared import compare

    terms = terms_of(question, agreed, options, default_runs, pairs[0].baseline.device)
    store, session = take_session(pairs, terms, options, lacks=lambda session: bool(session.unobserved))
    session = observe_arms(session, store, time_limit(options), say)
    _show(compare(session.comparisons, session.observations, session.records), question, options)


def take_session(
    pairs: Sequence["Pair"],
    terms: "Terms",
    options: RunOptions,
    lacks: "Lacks" = lambda session: False,
) -> "tuple[Store, Session]":
    """Say what is compared, or take up a session that said the same, and take its runs; return it with its store."""
    from memfloor.experiments.comparing import open_session, take_comparisons

    limit, store = time_limit(options), Store(options.out)
    store.open_for_writing()
    session = open_session(pairs, terms, store, lacks)
    if session.records:
        say(f"goes on with a session of {session.comparisons[0].taken_at}")
    with SessionProgress() as progress:
        return store, take_comparisons(session, store, progress, limit)


def say(phase: str) -> None:
    """Tell on standard error what is done."""
    print(f"memfloor: {phase}", file=sys.stderr)


def terms_of(question: Question, agreed: Agreed, options: RunOptions, default_runs: int, device: str) -> "Terms":
    """Return what is said of every comparison of a command before its first run.

    Outputs of paths of weights may differ: other formats give other numbers, and their quality is taken by itself.

    Raises:
        UsageError: A margin, a threshold or a count is out of range.
    """
    from memfloor.experiments.comparing import Terms

    _check(agreed)
    outputs: tuple[DifferingField, ...] = ("outputs",) if question == "weights" else ()
    return Terms(
        question=question,
        runs=run_count(options, default_runs),
        protocol=protocol(options, device),
        seed=options.seed,
        margin=agreed.margin,
        expect_null_below=agreed.expect_null_below,
        may_differ=tuple(dict.fromkeys((*agreed.may_differ, *outputs))),
    )


def _show(compared: Sequence["Compared"], question: str, options: RunOptions) -> None:
    from memfloor.report.comparison_tables import COMPARISON_COLUMNS, NARROW, WIDE_TABLE, comparison_row

    nothing = all(item.ratio is None for item in compared)
    if nothing:
        print("memfloor: no block has a run of both arms", file=sys.stderr)
    if options.json:
        print_json(one_or_list([_json(item, question) for item in compared]))
    else:
        rows = map(comparison_row, compared)
        print_wide_table(f"records in {options.out}", COMPARISON_COLUMNS, rows, WIDE_TABLE, NARROW)
        for item in compared:
            print_text("\n  ".join(_lines(item, question)))
    if nothing:
        sys.exit(EXIT_NOTHING_MEASURED)
    if any(item.refused for item in compared):
        sys.exit(EXIT_REFUSED)


def _json(compared: "Compared", question: str) -> dict[str, Any]:
    from memfloor.report.false_alarms import alarms_json

    return compared.to_json() | (alarms_json(compared) if question == "aa" else {})


def _lines(compared: "Compared", question: str) -> list[str]:
    from memfloor.report.comparison_tables import arms_text, comparison_lines
    from memfloor.report.false_alarms import alarm_sentences
    from memfloor.report.tables import workload_text

    title = f"{arms_text(compared)}, {workload_text(compared.baseline)}"
    return [title, *comparison_lines(compared), *(alarm_sentences(compared) if question == "aa" else [])]


def _check(agreed: Agreed) -> None:
    check_margin(agreed.margin)
    if agreed.expect_null_below is not None and not agreed.expect_null_below > 1:
        raise UsageError(f"expect-null-below must be above 1, not {agreed.expect_null_below}")
