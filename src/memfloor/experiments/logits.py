"""How far logits are from a reference's after the same tokens: arithmetic alone, in float64."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memfloor.errors import UsageError
from memfloor.record import LogitErrors

Rows = NDArray[np.float32]


def compare_logits(found: Rows, reference: Rows, tokens: Sequence[int]) -> LogitErrors:
    """Return how logits differ from a reference's, token by token.

    Args:
        found: Logits after each token, [T, V].
        reference: The reference's, [T, V].
        tokens: The T tokens that both were given.

    Raises:
        UsageError: The shapes differ, or a logit is not finite.
    """
    if found.shape != reference.shape:
        raise UsageError(f"its logits are of shape {found.shape}, not {reference.shape}")
    rows = [_compare_row(*pair) for pair in zip(found, reference, strict=True)]
    errors, agrees, divergences = zip(*rows, strict=True)
    return LogitErrors(
        relative_errors=errors,
        agrees=agrees,
        kl_nats=divergences,
        surprise_nats=_surprises(found, tokens),
        reference_surprise_nats=_surprises(reference, tokens),
    )


def _compare_row(found: Rows, reference: Rows) -> tuple[float, bool, float]:
    ours, theirs = found.astype(np.float64), reference.astype(np.float64)
    if not np.isfinite(ours).all():
        raise UsageError("its logits are not all finite")
    error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    logs, reference_logs = _log_softmax(ours), _log_softmax(theirs)
    divergence = float(np.sum(np.exp(reference_logs) * (reference_logs - logs)))
    # Rounding may bring nothing below nothing.
    return error, bool(ours.argmax() == theirs.argmax()), max(0.0, divergence)


def _surprises(rows: Rows, tokens: Sequence[int]) -> tuple[float, ...]:
    """Return minus the logarithm of the probability of each token by the logits before it."""
    following = zip(rows[:-1], tokens[1:], strict=True)
    return tuple(float(-_log_softmax(row.astype(np.float64))[token]) for row, token in following)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result
