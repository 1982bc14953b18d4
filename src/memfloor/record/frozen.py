"""The base of all that is stored."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Be immutable, and refuse unknown fields and numbers that are none."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)
