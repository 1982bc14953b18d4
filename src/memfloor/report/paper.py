"""The study's published figures, recomputed under each byte convention, and what does not add up among them."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import permutations
from typing import Any

from memfloor.floor import CONVENTIONS, floor_seconds, step_traffic
from memfloor.hardware import find_device
from memfloor.spec import Workload, load_model
from memfloor.units import MILLI, MILLION, SECONDS_PER_HOUR


@dataclass(frozen=True, slots=True)
class PublishedCell:
    """Hold one published fraction and the step time it implies under each convention."""

    device: str
    context_len: int
    fraction: float
    implied_step_seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class PublishedStep:
    """Hold a published step time of one device and path.

    Attributes:
        path: Device and path in the study's words.
        device: Short name of the device.
        weights: Format of the weights.
        seconds: The step.
        stated: Whether it is printed, or implied by a printed fraction.
    """

    path: str
    device: str
    weights: str
    seconds: float
    stated: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """Hold one inconsistency: its sentence and the numbers it was computed from."""

    name: str
    sentence: str
    numbers: dict[str, float]


@cache
def published() -> dict[str, Any]:
    """Return the published figures as the data file holds them."""
    return tomllib.loads((files("memfloor") / "data" / "paper.toml").read_text())


def published_cells() -> list[PublishedCell]:
    """Return every published cell of Figure 1 with the step times its fraction implies."""
    return [
        PublishedCell(
            device=row["device"],
            context_len=int(context),
            fraction=fraction,
            implied_step_seconds={name: _floor(row["device"], name, int(context)) / fraction for name in CONVENTIONS},
        )
        for row in published()["fractions"]
        for context, fraction in row["by_context"].items()
    ]


def findings() -> list[Finding]:
    """Return what does not add up, each computed from the published figures."""
    return [find() for find in _FINDINGS]


def _no_single_convention() -> Finding:
    steps, numbers = published()["steps"], {}
    for name in CONVENTIONS:
        numbers[f"h100_{name}"] = _floor("h100-sxm5", name) / steps["h100_eager_seconds"]
        numbers[f"l4_{name}"] = _floor("l4", name) / steps["l4_bf16_seconds"]
    h100, l4 = _fraction_at("h100-sxm5"), _fraction_at("l4")
    shown = ", ".join(
        f"{name} {100 * numbers[f'l4_{name}']:.1f} % and {100 * numbers[f'h100_{name}']:.1f} %" for name in CONVENTIONS
    )
    return Finding(
        "no single byte convention",
        f"The published {100 * l4:.0f} % on L4 and {100 * h100:.0f} % on H100 do not both follow from the published "
        f"steps of {_ms(steps['l4_bf16_seconds'])} and {_ms(steps['h100_eager_seconds'])} under any one convention: "
        f"{shown}.",
        numbers,
    )


def _other_sessions() -> Finding:
    h100 = _floor("h100-sxm5", "paper") / _fraction_at("h100-sxm5")
    l4 = _floor("l4", "paper") / _fraction_at("l4")
    steps = published()["steps"]
    return Finding(
        "fractions of other sessions",
        f"With all parameters counted the published fractions imply steps of {_ms(h100)} on H100 and {_ms(l4)} on L4: "
        f"the matrix session ({_ms(steps['h100_matrix_seconds'])}), not the session of the graphs A/B "
        f"({_ms(steps['h100_eager_seconds'])}).",
        {"h100_implied_seconds": h100, "l4_implied_seconds": l4},
    )


def _graphs_close_a_part() -> Finding:
    steps = published()["steps"]
    floor = _floor("h100-sxm5", "streamed")
    removed = steps["h100_eager_seconds"] - steps["h100_graphed_seconds"]
    share = removed / (steps["h100_eager_seconds"] - floor)
    over = steps["h100_graphed_seconds"] / floor
    paper_over = steps["h100_graphed_seconds"] / _floor("h100-sxm5", "paper")
    return Finding(
        "launch is not the missing term alone",
        f"CUDA Graphs remove {_ms(removed)}, {100 * share:.0f} % of the H100 gap to the streamed floor of "
        f"{_ms(floor)}; the graphed step is still {over:.2f} times that floor ({paper_over:.2f} times the paper's "
        "own), so launch overhead is not the missing term by itself.",
        {
            "removed_seconds": removed,
            "share_of_gap": share,
            "graphed_over_floor": over,
            "graphed_over_paper_floor": paper_over,
        },
    )


def _anatomy_below_floor() -> Finding:
    anatomy = published()["anatomy"]
    floors = {name: _floor("h100-sxm5", name) for name in CONVENTIONS}
    lowest = min(floors.values())
    launch = anatomy["kernels_per_step"] * anatomy["launch_cost_seconds"]
    return Finding(
        "Figure 4 is no measurement",
        f"Figure 4's {_ms(anatomy['compute_seconds'])} of compute is below every byte floor (the lowest is "
        f"{_ms(lowest)}), and its {anatomy['kernels_per_step']} launches at "
        f"{anatomy['launch_cost_seconds'] * 1e6:.0f} us each make {_ms(launch)}, not {_ms(anatomy['launch_seconds'])}.",
        {"compute_seconds": anatomy["compute_seconds"], "lowest_floor_seconds": lowest, "launch_seconds": launch},
    )


def _gptq_above_its_floor() -> Finding:
    steps = published()["steps"]
    observed = steps["l4_gptq_exllamav2_seconds"]
    streamed = _floor("l4", "streamed", weights="int4-g128")
    paper = _floor("l4", "paper", weights="int4-g128")
    traffic_ratio = _floor("l4", "streamed") / streamed
    speedup = steps["l4_bf16_seconds"] / observed
    return Finding(
        "GPTQ is faster than its bytes",
        f"GPTQ's {_ms(observed)} on L4 is {streamed / observed:.2f} of its streamed floor of {_ms(streamed)}, but "
        f"{paper / observed:.2f} under the paper's own convention, which is impossible; its speed-up of "
        f"{speedup:.2f} is above the traffic ratio of {traffic_ratio:.2f}.",
        {
            "streamed_floor_seconds": streamed,
            "streamed_fraction": streamed / observed,
            "paper_fraction": paper / observed,
            "traffic_ratio": traffic_ratio,
            "speedup": speedup,
        },
    )


def _no_pair_gives_the_cost_ratio() -> Finding:
    costs = dollars_per_million_tokens()
    claimed = published()["cost"]["claimed_ratio"]
    ratios = {(dear, cheap): costs[dear] / costs[cheap] for dear, cheap in permutations(costs, 2)}
    nearest = min(ratios, key=lambda pair: abs(ratios[pair] - claimed))
    listed = ", ".join(f"{name} {dollars:.2f}" for name, dollars in costs.items())
    return Finding(
        "no pair is 7.9 times cheaper",
        f"At {published()['cost']['provider']}'s prices a million tokens cost, in dollars: {listed}; the pair nearest "
        f"to the claimed {claimed} times is {nearest[0]} over {nearest[1]} with {ratios[nearest]:.2f}.",
        {**costs, "nearest_ratio": ratios[nearest], "claimed_ratio": claimed},
    )


_FINDINGS: tuple[Callable[[], Finding], ...] = (
    _no_single_convention,
    _other_sessions,
    _graphs_close_a_part,
    _anatomy_below_floor,
    _gptq_above_its_floor,
    _no_pair_gives_the_cost_ratio,
)


def published_steps() -> list[PublishedStep]:
    """Return the published step of each device and path, at the study's context.

    Where no step is printed, it is the one that the published fraction implies under the paper's convention.
    """
    steps = published()["steps"]
    stated = [
        ("H100 eager", "h100-sxm5", "bf16", steps["h100_eager_seconds"]),
        ("H100 graphed", "h100-sxm5", "bf16", steps["h100_graphed_seconds"]),
        ("L4 bf16", "l4", "bf16", steps["l4_bf16_seconds"]),
        ("L4 NF4", "l4", "nf4", steps["l4_nf4_seconds"]),
        ("L4 AWQ", "l4", "int4-g128", steps["l4_awq_marlin_seconds"]),
        ("L4 GPTQ", "l4", "int4-g128", steps["l4_gptq_exllamav2_seconds"]),
    ]
    implied = [("A100 eager", "a100-80"), ("L40S eager", "l40s")]
    return [PublishedStep(path, device, weights, seconds, stated=True) for path, device, weights, seconds in stated] + [
        PublishedStep(path, device, "bf16", _floor(device, "paper") / _fraction_at(device), stated=False)
        for path, device in implied
    ]


def dollars_per_million_tokens() -> dict[str, float]:
    """Return the cost of a million tokens at batch 1, by device and path, at the published steps and prices."""
    prices = published()["cost"]["dollars_per_hour"]
    return {step.path: prices[step.device] / SECONDS_PER_HOUR * step.seconds * MILLION for step in published_steps()}


def _fraction_at(device: str) -> float:
    row = next(row for row in published()["fractions"] if row["device"] == device)
    return float(row["by_context"][str(published()["context_len"])])


def _floor(device: str, convention: str, context_len: int | None = None, weights: str = "bf16") -> float:
    spec = load_model(published()["model"])
    workload = Workload.of(context_len or published()["context_len"], weights=weights)
    return floor_seconds(step_traffic(spec, workload, convention), find_device(device).peak_bytes_per_second)


def _ms(seconds: float) -> str:
    return f"{seconds / MILLI:.2f} ms"
