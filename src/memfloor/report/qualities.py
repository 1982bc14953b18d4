"""What a quality says of a path: its logits' error, how often the likeliest token is the same, and perplexity."""

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from memfloor.record import LogitErrors, Quality


@dataclass(frozen=True, slots=True)
class QualityMeans:
    """Hold what the tokens of a quality say together.

    Attributes:
        relative_error: Mean over tokens of the norm of the difference of logits over the norm of the reference's.
        top1_agreement: Share of tokens after which the likeliest next one is the reference's.
        kl_nats: Mean divergence from the reference's distribution of the next token.
        perplexity: Of the tokens by the path.
        reference_perplexity: Of the same tokens by the reference.
    """

    relative_error: float
    top1_agreement: float
    kl_nats: float
    perplexity: float
    reference_perplexity: float


def quality_means(errors: LogitErrors) -> QualityMeans:
    """Return what the tokens of a quality say together."""
    return QualityMeans(
        relative_error=fmean(errors.relative_errors),
        top1_agreement=fmean(errors.agrees),
        kl_nats=fmean(errors.kl_nats),
        perplexity=math.exp(fmean(errors.surprise_nats)),
        reference_perplexity=math.exp(fmean(errors.reference_surprise_nats)),
    )


def quality_json(quality: Quality) -> dict[str, Any]:
    """Return a quality as plain data for `--json`."""
    means = quality_means(quality.errors) if quality.errors else None
    return {
        "tokens": quality.tokens,
        "token_source": quality.token_source,
        "weights_source": quality.weights_source,
        "relative_error": means.relative_error if means else None,
        "top1_agreement": means.top1_agreement if means else None,
        "kl_nats": means.kl_nats if means else None,
        "perplexity": means.perplexity if means else None,
        "reference_perplexity": means.reference_perplexity if means else None,
        "problem": quality.problem,
    }
