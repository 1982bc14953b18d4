"""Tests of compiled kernels on a CUDA GPU; elsewhere their modules are skipped without being imported.

The tests of `tests/engine` switch their process to Triton's interpreter, so these need one of their own:
`python -m pytest -m gpu tests/gpu`.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

MAX_LEN, FILLED = 2560, 2300


def skip_reason() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA GPU is visible to torch"
    if os.environ.get("TRITON_INTERPRET"):
        return "this process interprets kernels; run tests/gpu in one of its own"
    return None


class SkippedModule(pytest.Module):
    """A module that is not even imported: on import Triton would decide whether kernels are compiled."""

    def collect(self):
        pytest.skip(str(skip_reason()))


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if skip_reason() is None:
        return None
    return SkippedModule.from_parent(parent, path=module_path)


@pytest.fixture(params=["off", "flags", "preload"])
def pdl(request) -> str:
    """How launches of a step overlap."""
    if request.param != "off" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("dependent launch needs compute capability 9.0")
    return request.param


@cache
def weights_of(name: str, layers: int) -> Any:
    from memfloor.engine.cuda.weights import random_weights

    return random_weights(cut(name, layers), torch.device("cuda"), seed=1)


def cut(name: str, layers: int) -> Any:
    from memfloor.spec import load_model

    return load_model(name).model_copy(update={"num_hidden_layers": layers})


def shapes_of(spec: Any, kv: str) -> Any:
    from memfloor.engine.cuda.default_shapes import default_shapes

    sms = torch.cuda.get_device_properties("cuda").multi_processor_count
    return default_shapes(spec, sms, kv=kv)


@pytest.fixture(scope="session")
def fill() -> Callable[[torch.Tensor], None]:
    """Fill a cache as it was when its model was built."""

    def fill_again(buffer: torch.Tensor) -> None:
        from memfloor.engine.cuda.kv_cache import fill_cache

        buffer.zero_()
        fill_cache(buffer, FILLED, seed=2)

    return fill_again


@pytest.fixture(scope="session")
def build(fill) -> Callable[..., Any]:
    """Build a full-size model of a few layers, which slide with a window; the same weights and cache each time."""

    def model_of(name: str, layers: int, pdl: str, kv: str = "bf16", window: int | None = None) -> Any:
        from memfloor.engine.cuda.model import DecodeModel
        from memfloor.engine.kernels.dependency import MODES

        slides = {"sliding_window": window, "num_sliding_layers": layers if window else 0}
        spec = cut(name, layers).model_copy(update=slides)
        model = DecodeModel(spec, weights_of(name, layers), MAX_LEN, shapes_of(spec, kv), MODES[pdl], kv)
        fill(model.cache)
        return model

    return model_of
