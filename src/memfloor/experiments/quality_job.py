"""The logits of one path in this process, each token decoded from an empty cache, beside those of the reference."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from memfloor.experiments.job import Unavailable
from memfloor.experiments.logits import compare_logits
from memfloor.record import Cell, LogitErrors
from memfloor.runtimes import DecodeRequest, find_runtime
from memfloor.runtimes.seeded_checkpoint import save_seeded_checkpoint


class QualityJob(BaseModel):
    """Ask a child process for the quality of a path.

    Attributes:
        cell: The path, with the checkpoint that it reads.
        seed: Of random weights.
        tokens: What is decoded.
        reference: File of the reference's logits, [T, V].
        is_reference: Whether this path is the reference, and writes that file.
        save_to: Folder where the reference saves its seeded random model first, for all paths to read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: Cell
    seed: int
    tokens: tuple[int, ...]
    reference: Path
    is_reference: bool = False
    save_to: Path | None = None


def do_quality(job: QualityJob, on_phase: Callable[[str], None]) -> LogitErrors:
    """Return how the path's logits differ from the reference's.

    Raises:
        Unavailable: The runtime cannot run this cell here.
        MemoryError: The model does not fit.
        UsageError: The logits are not finite, or of another vocabulary.
    """
    cell, runtime_class = job.cell, find_runtime(job.cell.runtime)
    reason = runtime_class.unavailable_reason(cell)
    if reason is not None:
        raise Unavailable(reason)
    if job.save_to is not None:
        on_phase("saving seeded random weights")
        save_seeded_checkpoint(cell, job.seed, job.save_to)
        cell = cell.model_copy(update={"weights_from": str(job.save_to)})
    on_phase("loading")
    runtime = runtime_class(DecodeRequest(cell, 0, len(job.tokens), job.seed, on_phase))
    runtime.prepare()
    on_phase(f"decoding {len(job.tokens)} given tokens")
    logits = runtime.forced_logits(job.tokens)
    if job.is_reference:
        np.save(job.reference, logits)
    return compare_logits(logits, np.load(job.reference, mmap_mode="r"), job.tokens)
