"""Does the method find what is known? Bias and interval coverage over many simulated studies."""

from dataclasses import replace
from statistics import fmean, median

import numpy as np
from simulated_machine import TERMS, Machine
from simulated_records import make_anatomy, make_run

from memfloor.record import paired_ceiling
from memfloor.report.breakdown import entries_of
from memfloor.report.ledger import TOLERANCE, make_ledger, middle
from memfloor.report.matching import match_steps
from memfloor.stats import estimate, paired_ratio, verdict

RUNS = (2, 3, 5, 10)
NAMES = ("step", "floor", *TERMS.values(), "host and launch", "unexplained")
GPU_EXTRA = {"cache": 0.6e-3, "elementwise": 0.9e-3, "sampling": 0.01e-3}
CPU_EXTRA = {"cache": 2e-3, "elementwise": 3e-3, "sampling": 0.2e-3}
# Fewer and longer kernels than the models have.
GPU = Machine("cuda", "eager", "qwen2.5-7b", 2048, 4.6e12, 8, GPU_EXTRA, launch_seconds=75e-6)
CPU = Machine("cpu", "eager", "qwen2.5-0.5b", 512, 45e9, 4, CPU_EXTRA, launch_seconds=200e-6, operator_seconds=80e-6)
MACHINES = {
    # The host is behind at some kernels and ahead at others.
    "gpu, eager, busy": GPU,
    # The host is behind throughout.
    "gpu, eager, host-bound": replace(GPU, launch_seconds=200e-6),
    "gpu, graph": replace(GPU, launches="graph"),
    "gpu, graph, profiler adds 0.2 us a kernel": replace(GPU, launches="graph", replay_seconds=0.2e-6),
    "cpu, eager": CPU,
    "cpu, plan": replace(CPU, launches="graph", extra_seconds={}),
}
# Two processors on one core: half the arithmetic, and less bandwidth.
SLOW = {"weights": 1.67, "attention": 1.85, "cache": 1.67, "elementwise": 2.0, "sampling": 2.0}
TWO_STATES = replace(CPU, flips=0.1, slow=SLOW)
CPU_TRACED_STEPS = 15
# Numbers of runs, the spread of blocks, and the margin of the verdict.
SHARED_NOISE, MARGIN = 0.03, 0.02


def generator_of(seed, what, study):
    """Return the generator of one study, the same whatever else is simulated."""
    return np.random.default_rng([seed, sum(what.encode()), study])


def anatomies_of(machine, generator, count):
    """Return the anatomies of one study."""
    steps = CPU_TRACED_STEPS if machine.device == "cpu" else 5
    return [make_anatomy(machine, generator, block, steps) for block in range(count)]


def ledger_estimates(anatomies):
    """Return every line of a ledger by name."""
    ledger = make_ledger(anatomies)
    lines = {term.name: term.seconds for term in ledger.terms}
    return lines | {
        "step": ledger.step_seconds,
        "floor": ledger.floor_seconds,
        "unexplained": ledger.unexplained_seconds,
    }


def study_ledger(name, seed, studies, runs=RUNS):
    """Return, by number of anatomies and line of the ledger, the bias and how often the interval holds the truth.

    Bias is over the true step: a term may be nothing.
    """
    machine = MACHINES[name]
    truth = machine.truth()
    found = {count: [] for count in runs}
    for study in range(studies):
        anatomies = anatomies_of(machine, generator_of(seed, name, study), max(runs))
        for count in runs:
            found[count].append(ledger_estimates(anatomies[:count]))
    lines = {
        str(count): {
            line: _bias_and_coverage([item[line] for item in found[count]], truth[line], truth["step"])
            for line in NAMES
        }
        for count in runs
    }
    return {"truth_seconds": truth, "anatomies": lines}


def _bias_and_coverage(estimates, truth, scale):
    return {
        "bias": (fmean(item.value for item in estimates) - truth) / scale,
        "coverage": fmean(item.ci95[0] <= truth <= item.ci95[1] for item in estimates),
    }


def study_steps(seed, studies, runs=RUNS):
    """Return the coverage of a cell's median, of a paired ratio, and the A/A mode's false alarms, by number of runs."""
    slow, fast = MACHINES["gpu, eager, busy"], MACHINES["gpu, graph"]
    truths = slow.truth()["step"], fast.truth()["step"]
    rows = {count: [] for count in runs}
    for study in range(studies):
        generator = generator_of(seed, "steps", study)
        arms = _interleaved((slow, fast, fast), generator, max(runs))
        for count in runs:
            rows[count].append(_judge([arm[:count] for arm in arms], truths))
    return {str(count): {name: fmean(row[name] for row in rows[count]) for name in rows[count][0]} for count in runs}


def _interleaved(machines, generator, blocks):
    arms = [[] for _ in machines]
    for block in range(blocks):
        shared = np.exp(generator.normal(0, SHARED_NOISE))
        for arm, machine in zip(arms, machines, strict=True):
            arm.append(make_run(machine, generator, block, shared))
    return arms


def _judge(arms, truths):
    slow, fast, again = ({run.block: run.p50_seconds for run in arm} for arm in arms)
    cell = estimate(arms[0], lambda run: run.p50_seconds)
    ratio, same = paired_ratio(slow, fast), paired_ratio(fast, again)
    true_ratio = truths[0] / truths[1]
    return {
        "cell median bias": cell.value / truths[0] - 1,
        "cell median coverage": float(cell.ci95[0] <= truths[0] <= cell.ci95[1]),
        "ratio bias": ratio.value / true_ratio - 1,
        "ratio coverage": float(ratio.ci95[0] <= true_ratio <= ratio.ci95[1]),
        "ratio of equals covers 1": float(same.ci95[0] <= 1 <= same.ci95[1]),
        "equals called faster or slower": float(verdict(same, MARGIN) in ("faster", "slower")),
    }


def study_two_states(seed, count):
    """Return what is unexplained of anatomies on a machine of two states, over the step, by what is done about them."""
    taken = anatomies_of(TWO_STATES, generator_of(seed, "two states", 0), count)
    matches = [match_steps(anatomy) for anatomy in taken]
    usable = [match.anatomy for match in matches if match.refusal is None]
    return {
        "all steps": _unexplained(taken),
        "kernel times scaled by the ceiling": _unexplained([scaled(anatomy) for anatomy in taken]),
        "matched steps": _unexplained(usable),
        "no match": 1 - len(usable) / len(taken),
    }


def scaled(anatomy):
    """Return an anatomy whose traced kernels are taken to go as the ceiling does: what is not done."""
    timed = median(part.ceiling_bytes_per_second for part in anatomy.parts())
    factors = [paired_ceiling(*pair)[0] / timed for pair in anatomy.trace.ceilings]
    kernels = tuple(
        kernel.model_copy(update={"seconds": tuple(np.multiply(kernel.seconds, factors))})
        for kernel in anatomy.trace.kernels
    )
    return anatomy.model_copy(update={"trace": anatomy.trace.model_copy(update={"kernels": kernels})})


def _unexplained(anatomies):
    shares = np.array([entries_of(anatomy)["unexplained"] / anatomy.p50_seconds for anatomy in anatomies])
    share_of = dict(zip(map(id, anatomies), shares, strict=True))
    threes = [anatomies[first : first + 3] for first in range(0, len(anatomies) - 2, 3)]
    of_three = np.array([share_of[id(middle(three)[0])] for three in threes])
    return {
        "mean": float(np.mean(shares)),
        "median of sizes": float(np.median(np.abs(shares))),
        "refused": float(np.mean(np.abs(shares) > TOLERANCE)),
        "refused, middle of three": float(np.mean(np.abs(of_three) > TOLERANCE)),
    }


def first_studies(seed, count=2, runs=3):
    """Return some lines of the first ledgers of each machine, by which a test knows the whole study again."""
    return {
        name: [_some_lines(anatomies_of(machine, generator_of(seed, name, study), runs)) for study in range(count)]
        for name, machine in MACHINES.items()
    }


def _some_lines(anatomies):
    lines = ledger_estimates(anatomies)
    return {name: [lines[name].value, *lines[name].ci95] for name in ("step", "host and launch", "unexplained")}
