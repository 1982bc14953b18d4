"""The schema of a quality: what a path's logits are, token by token, beside those of its own bf16 source."""

from typing import Literal, Self

from pydantic import Field, model_validator

from memfloor.record.cell import Cell
from memfloor.record.frozen import Frozen
from memfloor.record.run import Stored


class LogitErrors(Frozen):
    """Hold how the logits after each given token differ from the reference's after the same tokens.

    Attributes:
        relative_errors: Norm of the difference over the norm of the reference's logits, for each token.
        agrees: Whether the likeliest next token is the reference's.
        kl_nats: Divergence of the path's next-token distribution from the reference's.
        surprise_nats: Minus the logarithm of the probability that the path gives the token that follows; one fewer.
        reference_surprise_nats: The same of the reference.
    """

    relative_errors: tuple[float, ...] = Field(min_length=2)
    agrees: tuple[bool, ...]
    kl_nats: tuple[float, ...]
    surprise_nats: tuple[float, ...]
    reference_surprise_nats: tuple[float, ...]

    @model_validator(mode="after")
    def _one_of_each_token(self) -> Self:
        tokens = len(self.relative_errors)
        counts = len(self.agrees), len(self.kl_nats), len(self.surprise_nats) + 1, len(self.reference_surprise_nats) + 1
        if any(count != tokens for count in counts):
            raise ValueError(f"not every token of {tokens} has each of its numbers")
        return self


class Quality(Stored):
    """Hold the quality of one path, taken in a process of its own that was not timed.

    The reference is Hugging Face eager in bf16 over the same weights. Each token is decoded from an empty cache, one a
    step, by the path that `step` takes.

    Attributes:
        cell: The path, as it was timed.
        path: What the path was called.
        seed: Of random weights and random tokens.
        weights_source: Whether the weights that it quantised were a given checkpoint's or seeded random ones.
        token_source: Whether the tokens are a text's or seeded random ones, of which perplexity says little.
        tokens: How many tokens were decoded.
        tokens_sha256: Digest of the tokens.
        errors: What was found; None where the path gave no logits.
        problem: Why not.
    """

    kind: Literal["quality"] = "quality"
    cell: Cell
    path: str
    seed: int
    weights_source: Literal["checkpoint", "random"]
    token_source: Literal["text", "random"]
    tokens: int = Field(ge=2)
    tokens_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    errors: LogitErrors | None = None
    problem: str | None = None
