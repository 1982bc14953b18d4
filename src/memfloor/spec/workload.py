"""What one decode step works on: context, batch and formats."""

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from memfloor.errors import UsageError, first_problem
from memfloor.spec.formats import kv_format, unquantized, weight_format

MOST_TOKENS, MOST_SEQUENCES = 2**48, 2**16


class Workload(BaseModel):
    """Fix what one decode step works on.

    Attributes:
        context_len: Tokens in the KV cache before the step, S.
        batch: Sequences decoded together, B.
        weights: Name of the format of the attention and MLP weights.
        head: Name of the format of the output head.
        kv: Name of the format of the KV cache.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    context_len: int
    batch: int = 1
    weights: str = "bf16"
    head: str = "bf16"
    kv: str = "bf16"

    @model_validator(mode="after")
    def _check(self) -> "Workload":
        if self.context_len < 1:
            raise UsageError(f"context must be 1 token or more, not {self.context_len}")
        if self.context_len > MOST_TOKENS:
            raise UsageError(f"context must be {MOST_TOKENS} tokens or less, not {self.context_len}")
        if self.batch < 1:
            raise UsageError(f"batch must be 1 or more, not {self.batch}")
        if self.batch > MOST_SEQUENCES:
            raise UsageError(f"batch must be {MOST_SEQUENCES} or less, not {self.batch}")
        weight_format(self.weights)
        weight_format(self.head)
        kv_format(self.kv)
        return self

    @classmethod
    def of(
        cls, context_len: int, batch: int = 1, weights: str = "bf16", kv: str = "bf16", head: str | None = None
    ) -> "Workload":
        """Return a workload whose head, unless given, stays 16 bits wide when the other weights are quantised.

        Raises:
            UsageError: A count is below one or a format is unknown.
        """
        head = head or unquantized(weights)
        try:
            return cls(context_len=context_len, batch=batch, weights=weights, head=head, kv=kv)
        except ValidationError as error:
            raise UsageError(first_problem(error)) from error
