"""How often does this machine call equal arms different? An A/A comparison, read through samples of its blocks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb
from statistics import median
from typing import Any

from memfloor.report.compared import Compared
from memfloor.stats import Ratio, block_samples

BLOCKS = (3, 5, 10)
# Each sample reads its runs again: more would take a reader's patience.
SAMPLES = 200
ALARMS = ("faster", "slower")


@dataclass(frozen=True, slots=True)
class FalseAlarms:
    """Hold what samples of so many blocks of an A/A comparison would have said.

    Attributes:
        blocks: Blocks of each sample.
        samples: Samples taken: every one there is, or so many at random.
        exhaustive: Whether these are every one there is.
        share: Of samples whose verdict was faster or slower, which is false for two arms that are the same.
        resolvable_margin: The smallest margin within which the median sample finds the arms equivalent.
    """

    blocks: int
    samples: int
    exhaustive: bool
    share: float
    resolvable_margin: float


def false_alarms(compared: Compared, sizes: Sequence[int] = BLOCKS) -> list[FalseAlarms]:
    """Return the false alarms of samples of each size that the blocks of an A/A comparison allow.

    Blocks are drawn without replacement, so samples overlap: the shares are no better known than the blocks are many.
    """
    return [_of_size(compared, size) for size in sizes if size <= len(compared.blocks)]


def resolvable_margin(ratio: Ratio) -> float | None:
    """Return the smallest margin within which a ratio's interval lies; None for a ratio without one."""
    return None if ratio.ci95 is None else max(ratio.ci95[1], 1 / ratio.ci95[0]) - 1


def alarm_sentences(compared: Compared) -> list[str]:
    """Return what an A/A comparison says of its machine, in sentences that say how it was found."""
    said = []
    for found in false_alarms(compared):
        samples = f"all {found.samples}" if found.exhaustive else f"{found.samples} random"
        said.append(
            f"{found.share:.1%} of {samples} samples of {found.blocks} blocks call the two equal arms "
            f"faster or slower; such a sample resolves a margin of {found.resolvable_margin:.1%}."
        )
    margin = resolvable_margin(compared.ratio) if compared.ratio else None
    if margin is not None and compared.ratio:
        said.append(f"All {compared.ratio.blocks} blocks together resolve a margin of {margin:.1%}.")
    return said


def alarms_json(compared: Compared) -> dict[str, Any]:
    """Return the false alarms of an A/A comparison as plain data for `--json`."""
    return {
        "false_alarms": [asdict(found) for found in false_alarms(compared)],
        "resolvable_margin": resolvable_margin(compared.ratio) if compared.ratio else None,
        "method": "share of verdicts faster or slower among samples of blocks drawn without replacement",
    }


def _of_size(compared: Compared, size: int) -> FalseAlarms:
    shared = compared.blocks
    samples = block_samples(shared, size, SAMPLES)
    ratios = [compared.ratio_of(sample) for sample in samples]
    alarms = sum(compared.verdict_by(sample) in ALARMS for sample in samples)
    margins = [found for ratio in ratios if (found := resolvable_margin(ratio)) is not None]
    exhaustive = len(samples) == comb(len(shared), size)
    return FalseAlarms(size, len(samples), exhaustive, alarms / len(samples), median(margins))
