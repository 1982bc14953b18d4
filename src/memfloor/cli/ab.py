"""`memfloor ab`: what one change does to a decode step, as a ratio with its interval, and what else it changed."""

from typing import Annotated

from cyclopts import App, Parameter

from memfloor.cli.attention import attention
from memfloor.cli.comparing import AGREED, Agreed, run_comparisons
from memfloor.cli.measure import DEFAULTS, RunOptions, chosen_device, grid_options
from memfloor.cli.parse import parse_counts, parse_runtime
from memfloor.cli.weights import weights

DEFAULT_RUNS = 10

ab = App(
    name="ab",
    help="Compare arms in interleaved blocks of fresh processes; see also: ab launch, ab weights and ab attention.",
)
ab.command(weights)
ab.command(attention)


@ab.default
def general(
    model: str,
    /,
    *,
    baseline: str,
    candidate: str,
    context: str = "2048",
    agreed: Agreed = AGREED,
    options: RunOptions = DEFAULTS,
) -> None:
    """Compare two runtimes or options in interleaved blocks of fresh processes.

    The exit status is 1 where nothing was measured, and 3 where a verdict is refused.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json.
        baseline: Runtime and its options, as in hf-static.
        candidate: Runtime and its options, as in hf-static,launch=graph.
        context: Tokens in the KV cache, a comma list: a comparison at each.
        agreed: What is said before the first run.
        options: How runs are taken; --runs are blocks.
    """
    from memfloor.experiments.comparing import pairs_of

    device = chosen_device(options)
    arms = [(parse_runtime(baseline), parse_runtime(candidate))]
    pairs = pairs_of(model, parse_counts(context, "context"), arms, device, grid_options(options))
    run_comparisons("ab", pairs, agreed, options, DEFAULT_RUNS)


@ab.command
def launch(
    model: str,
    /,
    *,
    arms: Annotated[list[str] | None, Parameter(negative=())] = None,
    context: str = "2048",
    agreed: Agreed = AGREED,
    options: RunOptions = DEFAULTS,
) -> None:
    """Say what launching costs: the same kernels issued one by one and as a whole, and what compiling adds.

    The exit status is 1 where nothing was measured, and 3 where a verdict is refused.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json.
        arms: engine, hf-static or hf-compile (against hf-eager), repeatable; those that the device allows unless given.
        context: Tokens in the KV cache, a comma list: a comparison at each.
        agreed: What is said before the first run.
        options: How runs are taken; --runs are blocks.
    """
    from memfloor.experiments.comparing import launch_arms, pairs_of

    device = chosen_device(options)
    chosen = launch_arms(arms or [], device)
    pairs = pairs_of(model, parse_counts(context, "context"), chosen, device, grid_options(options))
    run_comparisons("ab", pairs, agreed, options, DEFAULT_RUNS)
