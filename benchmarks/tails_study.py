"""How often the intervals of `memfloor.tails` hold the truth, over simulated control loops whose tails are known.

A cycle takes 50 ms and a little; 5 % of cycles are slow, by 20 ms on average, alone or in stretches that follow one
another, as where a neighbour comes and goes. Misses are the slowest 0.2 %.

    python benchmarks/tails_study.py results/method/tails.json
"""

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np

from memfloor import tails

LEVELS = (0.5, 0.99, 0.999)
SLOW_SHARE, SLOW_SECONDS, CYCLE_SECONDS, NOISE_SECONDS = 0.05, 0.020, 0.050, 0.001
MISSED_SHARE, PERIOD_SECONDS = 0.002, 0.1
STRETCHES = {"alone": 1 / (1 - SLOW_SHARE), "in stretches of 10": 10, "in stretches of 50": 50}
LOOPS = {600: 200, 6_000: 200, 36_000: 60}
TRUTH_CYCLES = 4_000_000


def slow_cycles(random, count, stretch_len):
    """Return which cycles are slow: two states, each cycle in one of them, that last a geometric number of cycles."""
    leave = 1 / stretch_len
    enter = leave * SLOW_SHARE / (1 - SLOW_SHARE)
    draws, slow = random.random(count), np.empty(count, bool)
    slow[0] = draws[0] < SLOW_SHARE
    for place in range(1, count):
        slow[place] = draws[place] >= leave if slow[place - 1] else draws[place] < enter
    return slow


def cycle_seconds(random, slow):
    """Return the time of each cycle."""
    noise = random.normal(CYCLE_SECONDS, NOISE_SECONDS, len(slow))
    return noise + np.where(slow, random.exponential(SLOW_SECONDS, len(slow)), 0)


def holds(low, high, truth):
    """Tell whether an interval, an end of which may not be told, holds the truth."""
    return (low is None or low <= truth) and (high is None or truth <= high)


def coverage(random, truth, limit, count, loops, stretch_len):
    """Return the share of loops whose intervals hold the truth, by quantile and for misses; None where none is told."""
    told = {level: [] for level in LEVELS}
    misses = []
    for _ in range(loops):
        values = cycle_seconds(random, slow_cycles(random, count, stretch_len)).tolist()
        for level in LEVELS:
            found = tails.quantile([values], level)
            if found.value is not None:
                told[level].append(holds(found.low, found.high, truth[level]))
        rate = tails.rate([[value > limit for value in values]], PERIOD_SECONDS)
        misses.append(holds(*rate.ci95_per_hour, MISSED_SHARE * 3600 / PERIOD_SECONDS))
    shares = {f"p{100 * level:g}": float(np.mean(held)) if held else None for level, held in told.items()}
    return shares | {"misses": float(np.mean(misses)), "loops": loops}


def main():
    random = np.random.default_rng(0)
    population = cycle_seconds(random, random.random(TRUTH_CYCLES) < SLOW_SHARE)
    truth = {level: float(np.quantile(population, level)) for level in LEVELS}
    limit = float(np.quantile(population, 1 - MISSED_SHARE))
    rows = []
    for compared in (True, False):
        for count, loops in LOOPS.items():
            for name, stretch_len in STRETCHES.items():
                said = {"cycles": count, "slow": name, "stretches_compared": compared}
                with mock.patch.object(tails, "dispersion", tails.dispersion if compared else lambda runs: 1.0):
                    rows.append(said | coverage(random, truth, limit, count, loops, stretch_len))
                print(rows[-1], flush=True)
    Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
