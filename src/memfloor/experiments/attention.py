"""Which attention is fastest? Decode attention of one shape through every backend, in one interleaved session."""

from collections.abc import Sequence

from memfloor.errors import UsageError
from memfloor.experiments.comparing import Pair, RuntimeText
from memfloor.experiments.study import grid
from memfloor.record import Cell

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


def attention_pairs(
    model: str,
    contexts: Sequence[int],
    backends: Sequence[RuntimeText],
    device: str,
    *,
    batch: Sequence[int] = (1,),
    threads: int | None = None,
) -> list[Pair]:
    """Return each backend beside the baseline of its own launch mode, at each context and batch.

    Args:
        model: Whose shape is attended in.
        contexts: Tokens in the KV cache, the query's own included.
        backends: Each a backend and its options; the default ones if there is none.
        device: Kind of device.
        batch: Sequences attended together.
        threads: CPU threads of the backend and of the ceiling; None leaves every allowed core.

    Raises:
        UsageError: A name or option is unknown, a context is beyond the model's, or none is left beside the baseline.
    """
    chosen = list(backends or DEFAULT_BACKENDS)
    baselines = [(BASELINE, _launch(options)) for _, options in chosen]
    cells = grid([model], contexts, baselines + chosen, device, batch=batch, threads=threads, part="attention")
    ours = {(cell.workload, str(cell.options)): cell for cell in cells if _is_baseline(cell)}
    pairs = [Pair(ours[cell.workload, str(_launch(cell.options))], cell) for cell in cells if not _is_baseline(cell)]
    if not pairs:
        raise UsageError(f"no backend is left beside {BASELINE}; name one with --backend")
    return pairs


def _is_baseline(cell: Cell) -> bool:
    """Tell whether a cell is torch's own choice, which the others are compared with."""
    return cell.runtime == BASELINE and cell.options.keys() <= {"launch"}


def _launch(options: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if name == "launch"}
