"""Which attention is fastest? Decode attention of one shape through every backend, in one interleaved session."""

import uuid
from collections.abc import Sequence

from memfloor.experiments.blocks import Listener, Plan, take_blocks
from memfloor.experiments.comparing import Pair, RuntimeText, Terms, comparisons_of
from memfloor.experiments.study import grid
from memfloor.record import Cell, Comparison, Failure, Run, Skip, Store

DEFAULT_RUNS = 3
# What every other backend is compared with, at its own launch mode.
BASELINE = "sdpa"
# The study's rows, and its peers; one that cannot run here is a recorded skip.
DEFAULT_BACKENDS: tuple[RuntimeText, ...] = (
    (BASELINE, {}),
    (BASELINE, {"gqa": "rows"}),
    (BASELINE, {"backend": "flash"}),
    (BASELINE, {"backend": "efficient"}),
    (BASELINE, {"backend": "math"}),
    (BASELINE, {"backend": "cudnn"}),
    ("flash-attention-2", {}),
    ("flash-attention-3", {}),
    ("flashinfer", {}),
    ("flex", {}),
    ("engine", {}),
)


def attention_cells(
    model: str,
    contexts: Sequence[int],
    backends: Sequence[RuntimeText],
    device: str,
    *,
    batch: Sequence[int] = (1,),
    threads: int | None = None,
) -> list[Cell]:
    """Return the cells of a session: each backend, and the baseline of each launch mode, at each context and batch.

    Args:
        model: Whose shape is attended in.
        contexts: Tokens in the KV cache, the query's own included.
        backends: Each a backend and its options; the default ones if there is none.
        device: Kind of device.
        batch: Sequences attended together.
        threads: CPU threads of the backend and of the ceiling; None leaves every allowed core.

    Raises:
        UsageError: A name or option is unknown, or a context is beyond the model's.
    """
    chosen = list(backends or DEFAULT_BACKENDS)
    baselines = [(BASELINE, _launch(options)) for _, options in chosen]
    return grid([model], contexts, baselines + chosen, device, batch=batch, threads=threads, part="attention")


def attention_pairs(cells: Sequence[Cell]) -> list[Pair]:
    """Return each backend beside the baseline of its own context, batch and launch mode."""
    baselines = {(cell.workload, str(cell.options)): cell for cell in cells if is_baseline(cell)}
    return [Pair(baselines[cell.workload, str(_launch(cell.options))], cell) for cell in cells if not is_baseline(cell)]


def is_baseline(cell: Cell) -> bool:
    """Tell whether a cell is torch's own choice, which the others are compared with."""
    return cell.runtime == BASELINE and cell.options.keys() <= {"launch"}


def take_attention(
    cells: Sequence[Cell], terms: Terms, store: Store, listener: Listener, time_limit_seconds: float
) -> tuple[list[Comparison], list[Run | Failure | Skip]]:
    """Say what is compared, then take all runs of a session in randomised blocks, those of one context side by side.

    Args:
        cells: What is run.
        terms: What is said before the first run.
        store: Where records go; must be open for writing.
        listener: Follows along.
        time_limit_seconds: Time after which a run is ended and recorded as a failure.
    """
    comparisons = comparisons_of(attention_pairs(cells), terms)
    for comparison in comparisons:
        store.add(comparison)
    plan = Plan(
        cells=cells,
        runs=terms.runs,
        protocol=terms.protocol,
        time_limit_seconds=time_limit_seconds,
        seed=terms.seed,
        compared=lambda cell: cell.workload,
    )
    session_id = comparisons[0].session_id if comparisons else uuid.uuid4().hex
    return comparisons, list(take_blocks(plan, store, listener, session_id=session_id))


def _launch(options: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if name == "launch"}
