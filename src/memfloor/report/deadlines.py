"""Which device, runtime and format on record would keep a period, and where no runtime can."""

import math

from memfloor.errors import UsageError


def period_of(hz: float, tokens: int, prompt: int) -> float:
    """Return the seconds between two ticks, once the loop that is asked about is one.

    Raises:
        UsageError: The rate is no number above zero, or there is no token.
    """
    if not 0 < hz < math.inf or math.isinf(1 / hz):
        raise UsageError(f"hz must be above zero and finite, not {hz:g}")
    if tokens < 1:
        raise UsageError(f"tokens must be 1 or more, not {tokens}")
    if prompt < 1:
        raise UsageError(f"prompt must be 1 or more, not {prompt}")
    return 1 / hz
