"""`memfloor aa`: how often this machine calls two equal arms different."""

from memfloor.cli.comparing import AGREED, Agreed, run_comparisons
from memfloor.cli.measure import DEFAULTS, RunOptions, chosen_device, grid_options
from memfloor.cli.parse import parse_counts, parse_runtime

DEFAULT_RUNS = 20


def aa(
    model: str,
    /,
    *,
    runtime: str = "engine",
    context: str = "2048",
    agreed: Agreed = AGREED,
    options: RunOptions = DEFAULTS,
) -> None:
    """Compare a runtime with itself, and say how often samples of few blocks would have called it faster or slower.

    The exit status is 1 where nothing was measured, and 3 where the verdict is refused.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json.
        runtime: Runtime and its options, as in hf-static,launch=graph.
        context: Tokens in the KV cache, a comma list.
        agreed: What is said before the first run.
        options: How runs are taken; --runs are blocks.
    """
    from memfloor.experiments.comparing import twice
    from memfloor.experiments.study import grid

    device = chosen_device(options)
    contexts = parse_counts(context, "context")
    cells = grid([model], contexts, [parse_runtime(runtime)], device, **grid_options(options))
    run_comparisons("aa", twice(cells), agreed, options, DEFAULT_RUNS)
