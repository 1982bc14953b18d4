"""`memfloor tune`: launch shapes of the engine that are fastest on this GPU, kept for its option shapes=tuned."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from memfloor.cli.comparing import say
from memfloor.cli.output import print_json, print_table, print_text
from memfloor.cli.parse import parse_counts
from memfloor.errors import UsageError
from memfloor.spec import Workload, load_model
from memfloor.units import format_seconds

if TYPE_CHECKING:
    from memfloor.experiments.tune import Tuning


def tune(
    model: str,
    /,
    *,
    weights: str = "bf16",
    head: str | None = None,
    kv: str = "bf16",
    context: str = "2048",
    device_id: int = 0,
    minutes: float = 10.0,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Find the engine's fastest launch shapes on this GPU and keep them for --runtime engine,shapes=tuned.

    Each is checked against float32 before it is timed, in whole steps of as many layers as fit the memory, read in
    turn with the others. What replaces a default is faster by more than its repeated readings differ.

    Args:
        model: Catalogue name, or path of a Hugging Face directory or config.json.
        weights: Format of the weights.
        head: Format of the output head; 16 bits unless given.
        kv: Format of the KV cache.
        context: Tokens in the KV cache.
        device_id: Index of the GPU among those that are visible.
        minutes: Time after which no shape is tried; each takes two or three seconds.
        json: Print one JSON object instead.
    """
    from memfloor.experiments.tune import take_tuning

    contexts = parse_counts(context, "context")
    if len(contexts) > 1:
        raise UsageError(f"shapes are tuned at one context, not at {len(contexts)}")
    if not 0 < minutes < math.inf:
        raise UsageError(f"minutes must be above zero and finite, not {minutes:g}")
    workload = Workload.of(contexts[0], weights=weights, kv=kv, head=head)
    try:
        found = take_tuning(load_model(model), workload, device_id, 60 * minutes, say)
    except MemoryError as error:
        raise UsageError(str(error)) from error
    if json:
        print_json(asdict(found) | {"path": str(found.path)})
        return
    _show(found)


def _show(found: "Tuning") -> None:
    default, tuned = (format_seconds(each) for each in (found.default_seconds, found.step_seconds))
    rows = [[op, *pair] for op, pair in found.changed.items()]
    print_table(f"Launch shapes on {found.device}", ["operation", "default", "tuned"], rows)
    if rows:
        print_text(f"A step of {found.layers} layers takes {tuned} with them and {default} by default.")
    else:
        print_text(f"Nothing is faster than the default ({default}) by more than repeated readings differ.")
    ended = "nothing was left to try" if found.finished else "the time was up before all were tried"
    print_text(f"{found.tried} shapes were timed and {len(found.refused)} refused; {ended}.")
    print_text(f"Kept for engine,shapes=tuned in {found.path}")
