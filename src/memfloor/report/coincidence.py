"""Why the slowest cycles of control loops are slow: which part of them takes the time, and what else happened then.

What happened in a cycle is told from what is usual: a count above the median cycle's of its loop, a clock below it. The
share of slow cycles in which it did stands beside that of all others. A coincidence is no cause.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from statistics import fmean, median
from typing import Any

from memfloor.record import ControlLoop

# The share of cycles that are called slowest, and the fewest that say something.
SLOWEST_SHARE, FEWEST_SLOWEST = 0.01, 5
FEWEST_CYCLES = 4 * FEWEST_SLOWEST
# Of what could be chance over all facts of a table together.
LEVEL = 0.05
# A clock moves by itself within less.
CLOCK_DROP = 0.99
WORDS = {
    "involuntary_switches": "preempted (involuntary switches)",
    "voluntary_switches": "waited more often (voluntary switches)",
    "minor_faults": "more page faults, served from memory",
    "major_faults": "page faults served from disk",
    "collections": "Python collected garbage",
    "moved_cpu": "moved to another processor",
    "stolen_seconds": "processors taken by the machine's host",
    "cpu_pressure_seconds": "more waiting for processors on this machine",
    "sm_clock_hz": "the GPU's clock was lower",
    "cpu_clock_hz": "the processor's clock was lower",
}
PARTS = ("late_seconds", "prefill_seconds", "decode_seconds")


@dataclass(frozen=True, slots=True)
class Coincidence:
    """Hold how often something happened in the slowest cycles and in all others.

    Attributes:
        fact: What happened, as the record names it.
        slowest_with: Of the slowest cycles, those in which it did.
        slowest: The slowest cycles.
        others_with: Of the others, those in which it did.
        others: The others.
        chance: Probability that as many of the slowest would have it if it had nothing to do with them (Fisher).
        told: Whether that is told from chance, over all facts of the table.
    """

    fact: str
    slowest_with: int
    slowest: int
    others_with: int
    others: int
    chance: float
    told: bool

    @property
    def words(self) -> str:
        """Return what happened in words."""
        return WORDS.get(self.fact, self.fact)

    def to_json(self) -> dict[str, Any]:
        """Return the coincidence as plain data for `--json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Excess:
    """Hold how much longer the slowest cycles take than the median one, and in which part of a cycle.

    Attributes:
        cycles: The slowest cycles.
        by_part: Of each part, the mean over them less the median over all; what lies between the parts is `rest`.
    """

    cycles: int
    by_part: dict[str, float]

    @property
    def seconds(self) -> float:
        """Return the sum over all parts."""
        return sum(self.by_part.values())

    def to_json(self) -> dict[str, Any]:
        """Return the excess as plain data for `--json`."""
        return {"cycles": self.cycles, "excess_seconds": self.seconds, "excess_by_part": self.by_part}


def coincidences(loops: Sequence[ControlLoop], responses: Sequence[Sequence[float]]) -> list[Coincidence]:
    """Return what the slowest cycles coincide with, the most telling first; nothing of too few cycles.

    Args:
        loops: Of one cell.
        responses: Of each loop, the response of each cycle that counts.
    """
    slow = _slowest(responses)
    names = [name for name in loops[0].cycles.facts if all(name in loop.cycles.facts for loop in loops)]
    if not slow:
        return []
    level = LEVEL / max(1, len(names))
    found = [_coincidence(name, _happened(loops, name), slow, level) for name in names]
    return sorted(found, key=lambda item: item.chance)


def excess(loops: Sequence[ControlLoop], responses: Sequence[Sequence[float]]) -> Excess | None:
    """Return in which part the slowest cycles take longer; None of too few cycles.

    Args:
        loops: Of one cell.
        responses: Of each loop, the response of each cycle that counts.
    """
    slow = _slowest(responses)
    if not slow:
        return None
    total = list(chain.from_iterable(responses))
    columns = {part: _column(loops, part) for part in PARTS}
    columns = {part: values for part, values in columns.items() if values}
    columns["rest"] = [all_of - sum(parts) for all_of, *parts in zip(total, *columns.values(), strict=True)]
    by_part = {part: fmean(values[place] for place in slow) - median(values) for part, values in columns.items()}
    return Excess(len(slow), by_part)


def _column(loops: Sequence[ControlLoop], part: str) -> list[float]:
    return [value for loop in loops for value in loop.counted(getattr(loop.cycles, part))]


def _slowest(responses: Sequence[Sequence[float]]) -> set[int]:
    """Return the places of the slowest cycles among those of all loops, one loop after another."""
    values = list(chain.from_iterable(responses))
    if len(values) < FEWEST_CYCLES:
        return set()
    count = max(FEWEST_SLOWEST, round(SLOWEST_SHARE * len(values)))
    return set(sorted(range(len(values)), key=lambda place: -values[place])[:count])


def _happened(loops: Sequence[ControlLoop], name: str) -> list[bool]:
    flags: list[bool] = []
    for loop in loops:
        values = loop.counted(loop.cycles.facts[name])
        usual = median(values)
        clock = name.endswith("_hz")
        flags += [value < CLOCK_DROP * usual if clock else value > usual for value in values]
    return flags


def _coincidence(name: str, happened: Sequence[bool], slow: set[int], level: float) -> Coincidence:
    from scipy.stats import hypergeom

    total, cycles = sum(happened), len(happened)
    with_it = sum(happened[place] for place in slow)
    chance = float(hypergeom.sf(with_it - 1, cycles, total, len(slow)))
    return Coincidence(
        fact=name,
        slowest_with=with_it,
        slowest=len(slow),
        others_with=total - with_it,
        others=cycles - len(slow),
        chance=chance,
        told=chance < level,
    )
