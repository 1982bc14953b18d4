"""Comparisons as text: the same rows and lines in the terminal and on the page."""

from memfloor.report.bandwidths import EqualBandwidth
from memfloor.report.compared import Compared
from memfloor.report.tables import runtime_label, workload_text
from memfloor.stats import Ratio

COMPARISON_COLUMNS = (
    "candidate over baseline",
    "context",
    "device",
    "speed-up",
    "95 % CI",
    "isolation",
    "blocks",
    "verdict",
)
# Characters that all columns take, and what fits a narrow terminal, by place.
WIDE_TABLE = 160
NARROW = (0, 1, 3, 4, 7)
# Said wherever arms were compared that nobody had said would be.
AFTERWARDS = "paired afterwards, not registered"
SHOWN_KERNELS = 5


def comparison_row(compared: Compared) -> list[str]:
    """Return the row of a comparison."""
    return [
        arms_text(compared),
        workload_text(compared.baseline),
        compared.baseline_runs[0].environment.device.name if compared.baseline_runs else "-",
        f"{compared.ratio.value:.3f}" if compared.ratio else "-",
        ratio_interval(compared.ratio),
        compared.isolation or "-",
        _blocks(compared),
        compared.verdict,
    ]


def comparison_lines(compared: Compared) -> list[str]:
    """Return what a row has no room for, a line each."""
    if compared.ratio is None:
        return [compared.verdict]
    said = [] if compared.comparison else [f"{AFTERWARDS}: neither margin nor number of runs was stated before"]
    said += [f"outputs: {compared.outputs}"]
    if compared.bootstrap95:
        said.append("the same ratio with a bootstrap over blocks: [{:.3f}, {:.3f}]".format(*compared.bootstrap95))
    if compared.equal_bandwidth:
        said.append(_bandwidths(compared.equal_bandwidth))
    if compared.comparison and compared.comparison.expect_null_below is not None:
        said.append(f"expected below {compared.comparison.expect_null_below:g}: {compared.null}")
    said += [f"alarm, {item}" for item in compared.alarms]
    said += [f"confounded: {item}" for item in compared.confounders]
    said += [f"not observed: {item}" for item in compared.invariance.unobserved] if compared.invariance else []
    changed = compared.invariance.changed if compared.invariance else []
    if changed:
        more = f"; and {len(changed) - SHOWN_KERNELS} more" if len(changed) > SHOWN_KERNELS else ""
        named = "; ".join(map(str, changed[:SHOWN_KERNELS]))
        said.append(f"kernels that take another time, as a ratio with its interval: {named}{more}")
    return said


def _bandwidths(equal: EqualBandwidth) -> str:
    differed = f"; {equal}" if equal.differed else ""
    return f"at equal bandwidth, if both arms go by it: {equal.ratio}{differed}"


def arms_text(compared: Compared) -> str:
    """Return the arms in a few words, the candidate first."""
    if compared.baseline.arm:
        unlabelled = compared.baseline.model_copy(update={"arm": None})
        return f"{unlabelled.spec.name} {runtime_label(unlabelled)}, twice"
    baseline, candidate = runtime_label(compared.baseline), runtime_label(compared.candidate)
    return f"{compared.baseline.spec.name} {candidate} over {baseline}"


def ratio_interval(ratio: Ratio | None) -> str:
    """Return the interval of a ratio, or a dash where there is none."""
    return f"[{ratio.ci95[0]:.3f}, {ratio.ci95[1]:.3f}]" if ratio and ratio.ci95 else "-"


def _blocks(compared: Compared) -> str:
    taken = len(compared.blocks)
    planned = compared.comparison.planned_runs if compared.comparison else taken
    return str(taken) if taken == planned else f"{taken} of {planned}"
