"""`memfloor ab`: what one change does to a decode step, as a ratio with its interval, and what else it changed."""

import sys
from collections.abc import Sequence

from memfloor.cli.measure import DEFAULTS, RunOptions, chosen_device, grid_options, protocol, run_count, time_limit
from memfloor.cli.output import print_json, print_text
from memfloor.cli.parse import parse_counts, parse_runtime
from memfloor.cli.progress import SessionProgress
from memfloor.errors import UsageError
from memfloor.record import Cell, Store

DEFAULT_MARGIN = 0.02
LAUNCH_ARMS = ("engine,launch=eager", "engine,launch=graph")


def ab(
    model: str,
    /,
    *,
    baseline: str = LAUNCH_ARMS[0],
    candidate: str = LAUNCH_ARMS[1],
    context: str = "2048",
    margin: float = DEFAULT_MARGIN,
    expect_null_below: float | None = None,
    options: RunOptions = DEFAULTS,
) -> None:
    """Compare two runtimes or options in interleaved blocks of fresh processes; without arms, launch overhead.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json.
        baseline: Runtime and its options; the engine issued call by call unless given.
        candidate: Runtime and its options; the engine replayed unless given.
        context: Tokens in the KV cache.
        margin: Share by which the arms may differ and be called equivalent.
        expect_null_below: Speed-up that is claimed not to be reached, said before measuring; the interval decides.
        options: What measure and study share; --runs are blocks.
    """
    from memfloor.experiments.ab import speedup, trace_arms
    from memfloor.experiments.blocks import Plan, take_blocks
    from memfloor.report.invariance import confounders
    from memfloor.stats import verdict

    _check(margin, expect_null_below)
    device = chosen_device(options)
    cells = _cells(model, (baseline, candidate), context, device, options)
    plan = Plan(cells, run_count(options, 10), protocol(options, device), time_limit(options), options.seed)
    store = Store(options.out)
    store.open_for_writing()
    with SessionProgress() as progress:
        records = list(take_blocks(plan, store, progress))
    ratio = speedup(records, *cells)
    print("memfloor: tracing both arms", file=sys.stderr)
    found = confounders(*trace_arms(cells[0], cells[1], options.seed, time_limit(options)))
    answer = {
        "ratio": ratio.value,
        "ci95": ratio.ci95,
        "verdict": verdict(ratio, margin),
        "margin": margin,
        "null": _null(ratio.ci95, expect_null_below),
        "isolation": "confounded" if found else "isolated",
        "confounders": found,
        "blocks": ratio.blocks,
    }
    if options.json:
        print_json(answer)
        return
    interval = "" if ratio.ci95 is None else f" [{ratio.ci95[0]:.3f}, {ratio.ci95[1]:.3f}]"
    print_text(f"{cells[1].runtime_text} over {cells[0].runtime_text}: {answer['verdict']}")
    print_text(f"speed-up {ratio.value:.3f}{interval}, {ratio.blocks} blocks, margin {margin:g}")
    if expect_null_below is not None:
        print_text(f"expected below {expect_null_below:g}: {answer['null']}")
    print_text(f"isolation: {answer['isolation']}" + "".join(f"\n  {item}" for item in found))


def _cells(model: str, arms: Sequence[str], context: str, device: str, options: RunOptions) -> list[Cell]:
    from memfloor.experiments.study import grid

    contexts = parse_counts(context, "context")
    if len(contexts) > 1:
        raise UsageError(f"a comparison is at one context, not at {len(contexts)}")
    cells = grid([model], contexts, [parse_runtime(arm) for arm in arms], device, **grid_options(options))
    if len(cells) < len(arms):
        raise UsageError(f"baseline and candidate are both {arms[0]}; they must differ")
    return cells


def _check(margin: float, expect_null_below: float | None) -> None:
    if not 0 < margin < 1:
        raise UsageError(f"margin must be above 0 and below 1, not {margin}")
    if expect_null_below is not None and not expect_null_below > 1:
        raise UsageError(f"expect-null-below must be above 1, not {expect_null_below}")


def _null(ci95: tuple[float, float] | None, below: float | None) -> str | None:
    if below is None:
        return None
    if ci95 is None:
        return "undecided"
    if ci95[1] < below:
        return "holds"
    return "falsified" if ci95[0] >= below else "undecided"
