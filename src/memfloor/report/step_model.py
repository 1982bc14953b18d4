"""A step's time as a sum of three terms, fitted to steps that were seen.

A step takes as long as its matrices need at a share of the bandwidth, its keys and values some times as long as at all
of it, and a fixed cost for each layer: launches, synchronisation, small kernels. The terms are added, although a GPU
launches while it computes: over devices that sum errs less than their maximum (docs/method.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A device whose cells err more than that pulls no harder.
SOFT_ERROR = 0.05


@dataclass(frozen=True, slots=True)
class Observation:
    """Hold one step that a model is fitted to.

    Attributes:
        device: Short name of the device, or its driver's.
        model: What was decoded.
        context_len: Tokens in the KV cache.
        layers: Decoder blocks.
        matrix_seconds: Time of a step's bytes other than keys and values at the device's bandwidth.
        kv_seconds: The same of keys and values.
        step_seconds: What a step took.
        origin: `measured` or `published`.
    """

    device: str
    model: str
    context_len: int
    layers: int
    matrix_seconds: float
    kv_seconds: float
    step_seconds: float
    origin: str


@dataclass(frozen=True, slots=True)
class Fit:
    """Hold the three numbers of a model.

    Attributes:
        layer_seconds: Fixed cost of a layer.
        bandwidth_share: Of the bandwidth that matrices reach.
        kv_times: How many times as long keys and values take as at all of the bandwidth.
    """

    layer_seconds: float
    bandwidth_share: float
    kv_times: float

    def seconds(self, at: Observation) -> float:
        """Return the step that the model expects; what the observation itself took does not count."""
        return at.layers * self.layer_seconds + at.matrix_seconds / self.bandwidth_share + self.kv_times * at.kv_seconds


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Hold what a model fitted without a device expects of one of its cells, beside what was observed."""

    observation: Observation
    expected_seconds: float

    @property
    def error(self) -> float:
        """Return the relative error of the expectation."""
        return self.expected_seconds / self.observation.step_seconds - 1


def leave_devices_out(seen: Sequence[Observation]) -> list[LeftOut]:
    """Return what is expected of each observed cell by a model that knows the other devices alone."""
    fits = {
        device: fit_model([item for item in seen if item.device != device])
        for device in dict.fromkeys(item.device for item in seen)
    }
    return [LeftOut(item, fits[item.device].seconds(item)) for item in seen]


def fit_model(seen: Sequence[Observation]) -> Fit:
    """Return the model with the smallest relative errors, large ones counting less than by their square."""
    # Half a second of import that nothing else here needs.
    from scipy.optimize import least_squares

    layers, matrices, keys_and_values, steps = (
        np.array([getattr(item, name) for item in seen])
        for name in ("layers", "matrix_seconds", "kv_seconds", "step_seconds")
    )

    def errors(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        # As `Fit.seconds`, of all at once.
        layer_seconds, bandwidth_share, kv_times = numbers
        expected = layers * layer_seconds + matrices / bandwidth_share + kv_times * keys_and_values
        return np.asarray(np.log(expected / steps))

    solutions = [
        least_squares(
            errors,
            (layer_seconds, share, 3.0),
            bounds=((0, 0.05, 1), (1, 1, 100)),
            loss="soft_l1",
            f_scale=SOFT_ERROR,
            x_scale=(1e-4, 0.1, 1),
        )
        # The errors have more than one valley.
        for layer_seconds in (1e-6, 3e-4, 1e-3)
        for share in (0.6, 0.95)
    ]
    return Fit(*(float(value) for value in min(solutions, key=lambda solution: solution.cost).x))
