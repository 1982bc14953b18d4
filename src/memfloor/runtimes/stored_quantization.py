"""How a local checkpoint was quantised when it was saved, as its config.json says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memfloor.errors import UsageError


def stored_quantization(weights_from: str | None) -> Mapping[str, Any] | None:
    """Return the `quantization_config` of a checkpoint directory; None where its weights are as they were trained.

    Raises:
        UsageError: Its config.json cannot be read.
    """
    if weights_from is None:
        return None
    path = Path(weights_from) / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    found: Mapping[str, Any] | None = config.get("quantization_config")
    return found
