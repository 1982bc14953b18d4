"""The base of all that is stored."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

# Counts beyond it are no counts, and no table could hold them.
MOST = 2**31


class Frozen(BaseModel):
    """Be immutable, and refuse unknown fields and numbers that are none."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields changed; what was derived from the old ones is derived again."""
        copied = super().model_copy(update=update, deep=deep)
        if update:
            for name in copied.__dict__.keys() - type(copied).model_fields.keys():
                del copied.__dict__[name]
        return copied
